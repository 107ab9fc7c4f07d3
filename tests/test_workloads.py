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
GPU = {"mnist-mlp", "gpt2", "resnet50", "vit-b16", "llama-1b-bf16"}
ZOO = {"mnist-mlp", "lenet5", "vgg16", "resnet50", "unet", "bert-base", "gpt2", "vit-b16", "t5-small", "llama"}


def test_every_model_of_the_zoo_is_there():
    assert {path.name.split(".")[0] for path in FILES} >= ZOO


def test_five_models_are_there_from_a_gpu_too():
    assert {path.name.split(".")[0] for path in FILES if ".h200." in path.name} == GPU


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def path(request):
    return request.param


def test_it_is_small(path):
    assert path.stat().st_size < 400_000


def test_it_says_how_it_was_made(path):
    workload = load_workload(path)
    made = workload.provenance
    if made.made_by.startswith("benchmarks/"):  # one script for all of a device's
        assert made.command.startswith(f"python {made.made_by}")
        assert (FOLDER.parent / made.made_by).exists()
    else:
        assert f"-o workloads/{path.name}" in made.command
    assert workload.provenance.date
    assert workload.device
    assert all(cost.fidelity is Fidelity.MEASURED for layer in workload.layers for cost in layer.costs)


def test_every_point_was_checked_against_whole_steps(path):
    workload = load_workload(path)
    points = {(cost.microbatch, cost.tensor_parallel) for cost in workload.layers[0].costs}
    assert {(check.microbatch, check.tensor_parallel) for check in workload.checks} == points


def test_those_of_a_gpu_have_two_clocks_and_say_whose(path):
    workload = load_workload(path)
    costs = [cost for layer in workload.layers for cost in layer.costs]
    if ".h200." not in path.name:
        assert all(cost.host is None for cost in costs)
        assert any(any(cost.samples.accumulate_s) for cost in costs)  # later micro-batches add to gradients there too
        assert workload.precision.name == "fp32"
        return
    assert workload.device == "NVIDIA H200"
    assert workload.clock == "cuda-kernel"
    assert all(cost.host for cost in costs)
    assert workload.precision.name in ("fp32", "bf16")
    assert workload.notes
    assert "h200_steps.json" in workload.provenance.source


@pytest.mark.parametrize("name", sorted(GPU))
def test_the_committed_steps_are_predicted_from_the_workload_too(name):
    """On one device, as the file of measured steps has it, within what its host times vary by."""
    from mpsim.validate.steps_file import load_steps

    workload = load_workload(FOLDER / f"{name}.h200.json")
    one = parse_topology("chain:1,link=eth_10g")
    for row in load_steps():
        if row.model == name and row.tensor_parallel == 1:
            for step in row.steps:
                plan = Plan(batch=row.microbatch * step.microbatches, microbatches=step.microbatches)
                result = simulate(workload, one, plan, spans=False)
                assert result.steady_s == pytest.approx(step.back_to_back_s, rel=0.25)
                if step.peak_bytes > 2**30:
                    assert result.peak_memory_bytes[0] == pytest.approx(step.peak_bytes, rel=0.05)


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
    from mpsim.lowering.crossings import crossings

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
