"""Kineto traces as workloads: one by hand, and one of torch.profiler's."""

import gzip
import json
from pathlib import Path

import pytest

from mpsim.errors import MpsimError
from mpsim.interchange import load_kineto
from mpsim.interchange.kineto_layers import EVALUATE
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.spec import parse_topology


class Trace:
    """Events of a trace, written one after another; times in microseconds."""

    def __init__(self):
        self.events = []

    def add(self, name, start, duration, category="cpu_op", tid=1, **args):
        event = {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": tid, "ts": start, "dur": duration}
        self.events.append(event | {"args": {key.replace("_", " "): value for key, value in args.items()}})
        return self

    def module(self, name, start, duration):
        return self.add(f"nn.Module: {name}", start, duration, "python_function")

    def backward(self, node, start, duration, number=None, tid=1):
        named = {} if number is None else {"Sequence_number": number, "Fwd_thread_id": 1}
        return self.add(EVALUATE + node, start, duration, tid=tid, **named)

    def save(self, path, **more):
        path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": self.events} | more))
        return path


def step(trace, at, stretch=1):
    """Linear forward 30 and backward 50 + 4 us, ReLU 5 and 8, a loss of 3 and 2 that is nobody's, 7 of an optimizer."""
    s = stretch
    trace.module("Net_0", at, 100)
    trace.module("Linear_0", at + 5, 45)
    shapes = {"Input_Dims": [[8, 4], [], []], "Input_type": ["float", "Scalar", "Scalar"]}
    trace.add("aten::linear", at + 8, 30 * s, Sequence_number=at + 1, **shapes)
    trace.add("aten::addmm", at + 9, 20 * s, Sequence_number=at + 2)
    trace.module("ReLU_0", at + 60, 20)
    shapes = {"Input_Dims": [[8, 16]], "Input_type": ["c10::BFloat16"]}
    trace.add("aten::relu", at + 62, 5 * s, Sequence_number=at + 3, **shapes)
    trace.add("aten::mean", at + 110, 3, Sequence_number=at + 4)
    trace.backward("MeanBackward0", at + 120, 2, at + 4)
    trace.backward("ReluBackward0", at + 130, 8 * s, at + 3, tid=2)
    trace.backward("AddmmBackward0", at + 145, 50 * s, at + 2, tid=2)
    trace.add("aten::mm", at + 146, 30, tid=2)
    trace.backward("torch::autograd::AccumulateGrad", at + 240, 4 * s, tid=2)
    trace.add("AccumulateGrad", at + 240.5, 1, tid=2, Input_Dims=[[16, 4]], Input_type=["float"])
    trace.add("Optimizer.step#SGD.step", at + 250, 10, "user_annotation")
    trace.add("aten::add_", at + 251, 7)


@pytest.fixture
def trace():
    made = Trace()
    step(made, 1000)
    step(made, 2000, stretch=1.5)
    return made


def test_by_hand(trace, tmp_path):
    workload, losses = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    linear, relu = workload.layers
    assert (linear.name, linear.kind, relu.name) == ("Linear_0", "Linear", "ReLU_0")
    assert linear.costs[0].samples.forward_s == pytest.approx((30e-6, 45e-6))
    assert linear.costs[0].samples.backward_input_s == pytest.approx((54e-6, 81e-6))
    assert relu.costs[0].samples.forward_s == pytest.approx((5e-6, 7.5e-6))
    assert relu.costs[0].samples.backward_input_s == pytest.approx((8e-6, 12e-6))
    assert [one.shape for one in linear.shards[0].parameters] == [(16, 4)]
    assert linear.shards[0].gradients[0].bytes == 16 * 4 * 4
    assert relu.shards[0].parameters == ()
    assert [(one.producer, one.shape, one.dtype) for one in workload.tensors] == [
        ("", (8, 4), "float32"), ("Linear_0", (8, 16), "bfloat16"), ("ReLU_0", (8, 0), "float32"),
    ]  # fmt: skip
    assert (workload.microbatch, workload.device, workload.name) == (8, "cpu", "k")
    assert losses.lines[0] == "operators of no layer (loss, optimizer, copies): 0.000024 s in 2 steps"
    assert len(losses) == 6


def test_a_plan_can_be_made_of_it(trace, tmp_path):
    workload, _ = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    result = simulate(workload, parse_topology("chain:2,link=1GB/s@0us"), Plan(pp=2))
    sent_s = 2 * 8 * 16 * 2 / 1e9  # the activation there, its gradient back
    medians_s = (37.5 + 6.25 + 10 + 67.5) * 1e-6
    assert result.step_s == pytest.approx(medians_s + sent_s)


def test_the_whole_model_is_one_layer_at_depth_0(trace, tmp_path):
    workload, _ = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8, depth=0)
    (net,) = workload.layers
    assert net.name == "Net_0"
    assert net.costs[0].samples.forward_s == pytest.approx((35e-6, 52.5e-6))


def test_kernels_are_the_layers_that_launched_them(trace, tmp_path):
    """Where there are kernels, the time of operators is the host's and counts for nothing."""
    launches = [(1010, 1, 1), (1063, 2, 1), (1147, 3, 2), (1112, 4, 1), (1015, 5, 1), (2010, 6, 1), (2147, 7, 2)]
    for at, correlation, tid in launches:
        trace.add("cudaLaunchKernel", at, 1, "cuda_runtime", tid=tid, correlation=correlation)
        trace.add("k", 5000 + 100 * correlation, correlation, "kernel", tid="stream 7", correlation=correlation)
    trace.add("Memcpy", 9000, 64, "gpu_memcpy", tid="stream 7", correlation=99)
    path = trace.save(tmp_path / "k.json", deviceProperties=[{"name": "NVIDIA H200"}])
    workload, losses = load_kineto(path, microbatch=8)
    linear, relu = workload.layers
    assert workload.device == "NVIDIA H200"
    assert linear.costs[0].samples.forward_s == pytest.approx((6e-6, 6e-6))  # kernels 1 and 5; 6
    assert linear.costs[0].samples.backward_input_s == pytest.approx((3e-6, 7e-6))
    assert relu.costs[0].samples.forward_s == pytest.approx((2e-6, 0))
    assert losses.lines[0] == "kernels of no layer (loss, optimizer, copies): 0.000068 s in 2 steps"


def test_marks_stand_for_layers_where_there_are_no_modules(tmp_path):
    trace = Trace()
    for at in (0, 1000):
        trace.add(f"ProfilerStep#{at}", at, 900, "user_annotation")
        for i, name in enumerate(("embed", "block", "block")):
            trace.add(name, at + 10 + 100 * i, 50, "user_annotation")
            trace.add("aten::mm", at + 20 + 100 * i, 10 + i, Sequence_number=at + i)
            trace.backward("MmBackward0", at + 500 + 100 * i, 20 + i, at + i)
    workload, _ = load_kineto(trace.save(tmp_path / "k.json"), microbatch=1)
    assert [layer.name for layer in workload.layers] == ["embed", "block"]
    assert workload.layers[1].costs[0].samples.forward_s == pytest.approx((23e-6, 23e-6))
    assert workload.layers[1].costs[0].samples.backward_input_s == pytest.approx((43e-6, 43e-6))


def test_a_pass_without_backward_is_left_out_and_listed(trace, tmp_path):
    trace.module("Net_0", 3000, 100).module("Linear_0", 3005, 45).add("aten::linear", 3008, 30)
    trace.module("Loss_0", 3200, 1)
    workload, losses = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    assert len(workload.layers[0].costs[0].samples.forward_s) == 2
    assert "forward passes without a backward pass: left out: 1, the first number 3" in losses.lines
    assert "modules outside of the model: their times count for no layer: 1, the first 'Loss_0'" in losses.lines


def test_what_a_checkpoint_runs_again_is_backward(trace, tmp_path):
    trace.module("Linear_0", 1150, 20).add("aten::linear", 1151, 10, tid=1, Sequence_number=77)
    for event in trace.events[-2:]:
        event["tid"] = 2
    workload, _ = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    assert workload.layers[0].costs[0].samples.forward_s == pytest.approx((30e-6, 45e-6))
    assert workload.layers[0].costs[0].samples.backward_input_s == pytest.approx((54e-6, 81e-6))


@pytest.mark.parametrize("wrappers", [("DistributedDataParallel_0",), ("Trainer_0", "OptimizedModule_0")])
def test_what_wraps_the_model_is_no_layer(trace, tmp_path, wrappers):
    plain, _ = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    for at in (1000, 2000):
        for i, name in enumerate(wrappers):
            trace.module(name, at - len(wrappers) + i, 102)
    wrapped, losses = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    assert wrapped.layers == plain.layers
    (line,) = (line for line in losses.lines if line.startswith("wrappers around the model"))
    assert line.endswith(f"{len(wrappers)}, the first '{wrappers[0]}'")


def test_a_layer_that_is_most_of_the_model_is_said_to_be_parted_by_depth(trace, tmp_path):
    for at in (1000, 2000):
        trace.module("Trainer_0", at - 10, 130).module("Loss_0", at + 108, 6)
    workload, losses = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    assert [layer.name for layer in workload.layers] == ["Net_0", "Loss_0"]
    assert "layers inside 'Net_0', 94 % of the forward passes: --depth 2 parts it" in losses.lines
    deeper, losses = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8, depth=2)
    assert [layer.name for layer in deeper.layers] == ["Net_0.Linear_0", "Net_0.ReLU_0", "Loss_0"]
    assert not any("--depth" in line for line in losses.lines)


def test_a_trace_is_known_by_its_events(trace, tmp_path):
    """Without its first keys, as a list of events alone, and with the categories of profilers before torch 1.12."""
    whole, _ = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    older = [one | {"cat": {"cpu_op": "Operator"}.get(one["cat"], one["cat"])} for one in trace.events]
    for held in ({"traceEvents": trace.events}, trace.events, {"traceEvents": older}):
        (tmp_path / "k.json").write_text(json.dumps(held))
        assert load_kineto(tmp_path / "k.json", microbatch=8)[0].layers == whole.layers


@pytest.mark.parametrize(
    ("events", "more", "options", "message"),
    [
        ([], {"schemaVersion": 7}, {}, "has schemaVersion 7, mpsim reads 1"),
        ([], {"schemaVersion": None}, {}, "is no Kineto trace"),
        ([], {}, {}, "holds no modules and no marks"),
        ([("nn.Module: A_0", 0, 9, "python_function")], {}, {}, "holds no backward pass"),
        ([("nn.Module: A_0", 0, -1, "python_function")], {}, {}, r"traceEvents\[0\] \('nn.Module: A_0'\) lasts -1 us"),
        ([("nn.Module: A_0", None, 1, "python_function")], {}, {}, r"has None as ts"),
        (
            [("nn.Module: A_0", 0, 9, "python_function"), (EVALUATE + "X", 20, 1, "cpu_op")],
            {}, {}, r"k\.json: no backward pass belongs to a layer",
        ),
        ([("nn.Module: A_0", 10**400, 1, "python_function")], {}, {}, "has 1000.* as ts, expected microseconds"),
        ([("nn.Module: A_0", 0, 10**400, "python_function")], {}, {}, "has 1000.* as dur, expected microseconds"),
        (
            [("nn.Module: A_0", 0, 9, "python_function"), ("aten::mm", 1, 5), (EVALUATE + "X", 20, 1),
             ("cudaLaunchKernel", 2, 1, "cuda_runtime")],
            {}, {}, "launches kernels .* and holds none, .* ProfilerActivity.CUDA",
        ),
        ([], {}, {"microbatch": 0}, "microbatch is 0"),
        ([], {}, {"depth": -1}, "depth is -1"),
    ],
)  # fmt: skip
def test_a_trace_that_cannot_be_is_one_line(tmp_path, events, more, options, message):
    trace = Trace()
    for event in events:
        trace.add(*event)
    with pytest.raises(MpsimError, match=message) as error:
        load_kineto(trace.save(tmp_path / "k.json", **more), **({"microbatch": 1} | options))
    assert "\n" not in str(error.value)


def test_numbers_that_are_none_find_no_owner(trace, tmp_path):
    for event in trace.events:
        if "Sequence number" in event["args"] and event["name"] == "aten::relu":
            event["args"]["Sequence number"] = {"no": "number"}
    workload, _ = load_kineto(trace.save(tmp_path / "k.json"), microbatch=8)
    assert workload.layers[1].costs[0].samples.backward_input_s == (0.0, 0.0)


def test_a_compressed_trace_is_read_and_one_that_was_cut_or_edited_is_one_line(trace, tmp_path):
    whole = gzip.compress(Path(trace.save(tmp_path / "k.json")).read_bytes())
    (tmp_path / "k.json.gz").write_bytes(whole)
    assert len(load_kineto(tmp_path / "k.json.gz", microbatch=8)[0].layers) == 2
    for bad in (whole[:-8], whole[:20] + b"x" * 40, b"\x1f\x8bno gzip at all"):
        (tmp_path / "k.json.gz").write_bytes(bad)
        with pytest.raises(MpsimError, match=r"cannot read .*k\.json\.gz.*: its gzip was cut or edited") as error:
            load_kineto(tmp_path / "k.json.gz", microbatch=8)
        assert "\n" not in str(error.value)


def test_a_cut_file_is_one_line(trace, tmp_path):
    path = trace.save(tmp_path / "k.json")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(MpsimError, match=r"k\.json is not whole JSON"):
        load_kineto(path, microbatch=8)


def test_a_trace_of_torchs_own_profiler(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.Linear(96, 32), torch.nn.Linear(32, 10))
    )
    update = torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        model(torch.randn(16, 64)).pow(2).mean().backward()
        update.step()
        update.zero_grad()

    train()
    kind = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind], with_stack=True, record_shapes=True) as profile:
        for _ in range(3):
            train()
    profile.export_chrome_trace(str(tmp_path / "net.json"))
    workload, losses = load_kineto(tmp_path / "net.json", microbatch=16)
    assert [layer.kind for layer in workload.layers] == ["Linear", "ReLU", "Sequential"]
    held = [sorted(one.shape for one in layer.shards[0].parameters) for layer in workload.layers]
    assert held == [[(96,), (96, 64)], [], [(10,), (10, 32), (32,), (32, 96)]]
    assert [one.shape for one in workload.tensors] == [(16, 64), (16, 96), (16, 96), (16, 0)]
    for layer in workload.layers:
        samples = layer.costs[0].samples
        assert len(samples.forward_s) == len(samples.backward_input_s) == 3
        assert min(samples.forward_s) > 0
        assert min(samples.backward_input_s) > 0
    deeper, _ = load_kineto(tmp_path / "net.json", microbatch=16, depth=2)
    assert [layer.kind for layer in deeper.layers] == ["Linear", "ReLU", "Linear", "Linear"]
    assert sum(map(len, (line for line in losses.lines if "optimizer steps" in line))) > 0
