"""Tables of embeddings that ranks share: what one looks up and exchanges."""

import pytest

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.builders import fully_connected
from mpsim.workload import zoo
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.source import resolve_model
from mpsim.workload.split import Split
from mpsim.workload.trace import trace

torch = pytest.importorskip("torch")

from mpsim.workload.tensor_parallel import local_shard  # noqa: E402

BATCH, FEATURES, POOLING = 6, 8, 3
SIZES = {"rows": (30, 20, 10, 50), "features": FEATURES, "bottom": (16,), "top": (16,), "pooling": POOLING}
SPEC = DeviceSpec(name="made up", peak_flops_per_s={"float32": 1e12}, memory_bytes_per_s=1e11, kernel_floor_s=0.0)


def dlrm():
    return zoo.get("dlrm").build(BATCH, **SIZES)


def test_row_numbers_go_to_tables_and_rows_to_samples():
    """Each rank has 6 samples: 3 numbers for each of 4 tables, and a row of 8 floats back, whose gradient returns."""
    part = local_shard(dlrm(), Split(ep=2), rank=1)
    asked, rows = BATCH * 4 * POOLING * 8, BATCH * 4 * FEATURES * 4
    assert [(one.module, one.kind, one.bytes, one.phase, one.axis) for one in part.collectives] == [
        ("tables", "all_to_all", asked, "forward", "ep"),
        ("tables", "all_to_all", rows, "forward", "ep"),
        ("tables", "all_to_all", rows, "backward", "ep"),
    ]
    assert part.experts == {"tables.0.weight", "tables.1.weight"}
    assert [table.weight.shape[0] for table in part.example.model.tables] == [10, 50]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_ranks_tables_are_looked_up_for_all_batches(rank):
    """Of ranks with the same batch, what each sends back is its tables' part of the whole; gradients come twice."""
    example = dlrm()
    local = local_shard(example, Split(ep=2), rank=rank).example.model
    sparse = example.inputs[1]
    whole, found = example.model.tables(sparse), local.tables(sparse)
    assert torch.equal(found[:, :2], whole[:, 2 * rank : 2 * rank + 2])
    whole.square().sum().backward()
    found[:, :2].square().sum().backward()
    for number in range(2):
        expected = example.model.tables[2 * rank + number].weight.grad
        torch.testing.assert_close(local.tables[number].weight.grad, expected)


def test_a_trace_has_the_rank_of_the_largest_tables_and_a_plan_reduces_none_of_them():
    workload = trace(resolve_model("dlrm", SIZES), microbatches=(BATCH,), splits=("ep=2",), analytical=SPEC,
                     progress=False)  # fmt: skip
    (layer,) = [layer for layer in workload.layers if layer.name == "tables"]
    assert [layer.shard(split).parameter_bytes for split in (1, Split(ep=2))] == [110 * 32, 60 * 32]
    assert {one.expert for one in layer.shard(Split(ep=2)).gradients} == {True}
    assert "ep=2: the rank whose 2 of 4 tables (tables) are the largest" in workload.notes
    topology = fully_connected(2, link="1GB/s@1us")
    shared, whole = (simulate(workload, topology, Plan(dp=2, ep=ep)).traffic for ep in (2, 1))
    reduced = [next(one.payload_bytes for one in each if one.kind == "all_reduce") for each in (shared, whole)]
    assert reduced[1] - reduced[0] == 110 * 32


def test_tables_that_do_not_divide_are_refused():
    with pytest.raises(MpsimError) as error:
        local_shard(dlrm(), Split(ep=3))
    assert str(error.value) == (
        "tables (Tables): 4 tables do not divide by 3 expert-parallel ranks; the nearest that works is 2"
    )
