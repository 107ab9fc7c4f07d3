"""Every version ever written stays readable; what is broken is refused in one line."""

import json
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
    Samples,
    Shard,
    ShardCollective,
    StepCheck,
    Tensor,
    TensorShard,
    Workload,
)

GOLDEN = Path(__file__).parents[1] / "data" / "workload-1.json"


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


def test_first_version_stays_readable():
    assert load_workload(GOLDEN) == golden()


def test_round_trip(tmp_path):
    save_workload(tmp_path / "w.json", golden())
    assert load_workload(tmp_path / "w.json") == golden()
    assert json.loads((tmp_path / "w.json").read_text())["schema"] == "mpsim.workload/1"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": "mpsim.workload/1"', '"schema": "mpsim.workload/9"', "reads up to mpsim.workload/1"),
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
