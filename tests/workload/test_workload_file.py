"""Every version ever written stays readable; what is broken is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.workload.file import load_workload, save_workload
from mpsim.workload.model import (
    Cost,
    Fidelity,
    Gradient,
    Layer,
    Parameter,
    Precision,
    Samples,
    Shard,
    ShardCollective,
    StepCheck,
    Tensor,
    TensorShard,
    Workload,
)

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "workload-1.json"


def _layer(name, saved):
    samples = Samples(
        forward_s=(0.5, 0.75), backward_input_s=(0.25, 0.5), backward_weight_s=(0.125, 0.25), optimizer_s=(0.0625, 0.0)
    )
    weight = Parameter(name=f"{name}.weight", shape=(4, 2), dtype="bfloat16")
    half = Parameter(name=f"{name}.weight", shape=(2, 2), dtype="bfloat16")
    collective = ShardCollective(kind="all_reduce", bytes=16, phase="forward")
    return Layer(
        name=name,
        kind="Linear",
        shards=(
            Shard(parameters=(weight,), gradients=(Gradient(parameter=weight.name, bytes=16),), optimizer_bytes=68),
            Shard(tensor_parallel=2, parameters=(half,), gradients=(), optimizer_bytes=36, buffer_bytes=8),
        ),
        costs=(
            Cost(microbatch=2, samples=samples, wall=samples, fidelity=Fidelity.MEASURED, saved_bytes=saved, flops=64),
            Cost(microbatch=2, tensor_parallel=2, samples=samples, collectives=(collective,)),
        ),
    )


def golden():
    return Workload(
        name="golden",
        layers=(_layer("a", 32), _layer("b", 0)),
        tensors=(
            Tensor(name="input", producer="", consumers=("a",), shape=(2, 4), role="input", needs_gradient=False,
                   saved_by="a"),
            Tensor(name="a.out", producer="a", consumers=("b",), shape=(3, 2), batch_dim=1,
                   shards=(TensorShard(tensor_parallel=2, shape=(3, 1)),)),
            Tensor(name="b.out", producer="b", shape=(4,), dtype="int64", batch_dim=None, role="output"),
        ),
        microbatch=2,
        device="device",
        clock="thread-cpu",
        threads=1,
        optimizer="adamw",
        dataset_samples=60000,
        checks=(StepCheck(microbatch=2, whole_s=(2.0, 2.0), layers_s=(2.0, 2.5)),),
        provenance=Provenance(made_by="mpsim 0.1.0", command="mpsim trace golden", date="2025-01-01", machine="m",
                              software="s", source="by hand"),
    )  # fmt: skip


def second():
    """The golden workload with all that the second version adds."""
    one = golden()
    host = Samples(
        forward_s=(0.25, 0.5), backward_input_s=(0.5, 0.5), backward_weight_s=(0.0, 0.25), accumulate_s=(0.125, 0.0)
    )

    def layer(old):
        cost = replace(
            old.costs[0],
            samples=replace(old.costs[0].samples, accumulate_s=(0.03125, 0.0625)),
            host=host,
            forward_transient_bytes=64,
            backward_transient_bytes=128,
        )
        return replace(old, costs=(cost, old.costs[1]))

    first, second = (layer(old) for old in one.layers)
    whole = replace(first.shards[0], gradients=(Gradient(parameter="a.weight", bytes=32, dtype="float32"),))
    return replace(
        one,
        layers=(replace(first, shards=(whole, first.shards[1])), second),
        precision=Precision(
            name="bf16", compute="bfloat16", parameters="bfloat16", gradients="float32", master="float32"
        ),
        checks=(replace(one.checks[0], differences=("kept for backward 32 bytes, the plain step 48",)),),
        notes=("nothing reads parameter b.spare",),
    )


def newest():
    """That of the second version with all that the third adds."""
    one = second()
    axes = {"tensor_parallel": 2, "context_parallel": 2, "expert_parallel": 2, "sequence_parallel": True}
    gather = ShardCollective(kind="all_gather", bytes=32, phase="backward", axis="cp", when="beside")

    def layer(old):
        whole, half = old.shards
        weight = half.parameters[0].name
        gradients = (
            Gradient(parameter=weight, bytes=8, expert=True),
            Gradient(parameter=f"{old.name}.scale", bytes=4, partial=True),
        )
        cost = replace(old.costs[1], collectives=(*old.costs[1].collectives, gather), **axes)
        return replace(old, shards=(whole, half, replace(half, gradients=gradients, **axes)), costs=(*old.costs, cost))

    fed, sent, given = one.tensors
    return replace(
        one,
        layers=tuple(layer(old) for old in one.layers),
        tensors=(fed, replace(sent, shards=(*sent.shards, TensorShard(shape=(1, 1), **axes))), given),
        checks=(*one.checks, StepCheck(microbatch=2, whole_s=(1.0,), layers_s=(1.0,), **axes)),
    )


@pytest.mark.parametrize(("version", "expected"), [(1, golden()), (2, second()), (3, newest())])
def test_every_version_stays_readable(version, expected):
    assert load_workload(DATA / f"workload-{version}.json") == expected


def test_round_trip(tmp_path):
    save_workload(tmp_path / "w.json", newest())
    assert load_workload(tmp_path / "w.json") == newest()
    assert json.loads((tmp_path / "w.json").read_text())["schema"] == "mpsim.workload/3"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": "mpsim.workload/1"', '"schema": "mpsim.workload/9"', "reads up to mpsim.workload/3"),
        ('"schema": "mpsim.workload/1"', '"schema": "mpsim.topology/1"', "is a topology"),
        ("[0.5, 0.75]", "[NaN, 0.75]", "NaN"),
        ("[0.5, 0.75]", "[-0.5, 0.75]", "expected seconds, zero or more"),
        ('"forward_s": [0.5, 0.75]', '"foward_s": [0.5, 0.75]', "did you mean 'forward_s'"),
        ('"consumers": ["b"]', '"consumers": ["c"]', "names layer 'c'"),
        ('"microbatch": 2,\n "device"', '"microbatch": 0,\n "device"', "microbatch is 0"),
    ],
)
def test_edited_files_are_refused(tmp_path, old, new, message):
    text = GOLDEN.read_text()
    assert old in text
    (tmp_path / "w.json").write_text(text.replace(old, new))
    with pytest.raises(MpsimError, match=message) as caught:
        load_workload(tmp_path / "w.json")
    assert "\n" not in str(caught.value)


def test_truncated_file(tmp_path):
    (tmp_path / "w.json").write_text(GOLDEN.read_text()[:400])
    with pytest.raises(MpsimError, match="not whole JSON"):
        load_workload(tmp_path / "w.json")


def test_missing_file(tmp_path):
    with pytest.raises(MpsimError, match="no file"):
        load_workload(tmp_path / "none.json")
