"""Every stored trace loads, says how it was made, and can be split."""

from pathlib import Path
from statistics import median

import pytest

from mpsim import Plan, load_workload, parse_topology, simulate
from mpsim.workload.costs import measured_microbatches
from mpsim.workload.model import Fidelity
from mpsim.workload.trust import doubts

FOLDER = Path(__file__).parent.parent / "workloads"
FILES = sorted(FOLDER.glob("*.json"))
TOPOLOGY = parse_topology("switch:2,link=eth_10g")
ZOO = {"mnist-mlp", "lenet5", "vgg16", "resnet50", "unet", "bert-base", "gpt2", "vit-b16", "t5-small", "llama"}


def test_every_model_of_the_zoo_is_there():
    assert {path.name.split(".")[0] for path in FILES} >= ZOO


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def path(request):
    return request.param


def test_it_is_small(path):
    assert path.stat().st_size < 400_000


def test_it_says_how_it_was_made(path):
    workload = load_workload(path)
    assert f"-o workloads/{path.name}" in workload.provenance.command
    assert workload.provenance.date
    assert workload.device
    assert all(cost.fidelity is Fidelity.MEASURED for layer in workload.layers for cost in layer.costs)


def test_every_point_was_checked_against_whole_steps(path):
    workload = load_workload(path)
    points = {(cost.microbatch, cost.tensor_parallel) for cost in workload.layers[0].costs}
    assert {(check.microbatch, check.tensor_parallel) for check in workload.checks} == points


def test_the_sum_of_layers_is_near_the_whole_step_at_the_largest_microbatch(path):
    workload = load_workload(path)
    largest = max(workload.checks, key=lambda check: (check.tensor_parallel == 1, check.microbatch))
    assert abs(largest.ratio - 1) < 0.05


@pytest.mark.parametrize("schedule", ["naive", "gpipe", "1f1b"])
def test_it_can_be_split(path, schedule):
    workload = load_workload(path)
    size = measured_microbatches(workload)[0]
    plan = Plan(pp=2, batch=4 * size, microbatches=4, schedule=schedule)
    result = simulate(workload, TOPOLOGY, plan, spans=False)
    work = sum(median(c.samples.forward_s) for layer in workload.layers for c in layer.costs[:1])
    assert result.step_s > 4 * work / 2
    assert result.fidelity == ("doubtful" if doubts(workload, size) else "measured")


def test_a_cut_through_the_unet_sends_every_skip_tensor():
    """In the middle, all of the encoder's outputs and the bottleneck's input cross, each once."""
    from mpsim.program.crossings import crossings

    workload = load_workload(FOLDER / "unet.cpu.json")
    cut = workload.index("bottleneck")
    crossing = crossings(workload, workload.microbatch, 1)[cut - 1]
    skips = {
        tensor.name for tensor in workload.tensors if tensor.producer.startswith("encoder") and "relu" in tensor.name
    }
    assert len(skips) == 4
    assert skips <= set(crossing.tensors)
    assert crossing.forward_bytes == sum(t.bytes() for t in workload.tensors if t.name in crossing.tensors)
    assert len(crossing.tensors) == 5
