"""A device that fails is dropped, and nobody can tell from the losses: equal to the bit, wherever it failed."""

from __future__ import annotations

import functools
import gc
import os
import random
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mpsim.emulate import captured as captured_module
from mpsim.emulate import processes
from mpsim.emulate import splitter as splitter_module
from mpsim.emulate import trainer as trainer_module
from mpsim.emulate.capture.check import checked_capture
from mpsim.emulate.device import Device
from mpsim.emulate.flight import Flight
from mpsim.emulate.resplit import plans_for
from mpsim.emulate.splitter import ModelSplitter
from mpsim.emulate.trainer import ParallelTrainer
from mpsim.emulate.wire import receive, send
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan

STEPS = 4
pytestmark = pytest.mark.filterwarnings("ignore:device .* is split again:UserWarning")


class Classifier(nn.Module):
    """A small transformer, with dropout in its attention too."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def mlp():
    layers = [module for _ in range(3) for module in (nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.3))]
    return nn.Sequential(*layers, nn.Linear(8, 3)), torch.randn(8, 8)


def cnn():
    layers = [module for _ in range(3) for module in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 16, 3)), torch.randn(8, 3, 4, 4)


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": lambda: (Classifier(), torch.randint(11, (8, 5)))}


@functools.cache
def made(name):
    """Return a model, its first weights and a batch; captured once, it serves all tests."""
    torch.manual_seed(0)
    model, x = MODELS[name]()
    first = {key: value.clone() for key, value in model.state_dict().items()}
    return model, first, x, torch.randint(3, (len(x),))


@pytest.fixture(autouse=True)
def _captured_once(monkeypatch):
    models = [made(name)[0] for name in MODELS]  # which seeds the generator

    def once(example, tp):
        if not any(example.model is model for model in models):
            return captured_module.Captured(example, tp)
        key = id(example.model), tuple(example.inputs[0].shape)
        if key not in _CAPTURED:
            _CAPTURED[key] = captured_module.Captured(example, tp)
        return _CAPTURED[key]

    def cut_once(example, *arguments, **options):
        key = id(example.model), tuple(example.inputs[0].shape), len(options)
        if key not in _CAPTURED:
            _CAPTURED[key] = checked_capture(example, *arguments, **options)
        return _CAPTURED[key]

    monkeypatch.setattr(trainer_module, "Captured", once)
    monkeypatch.setattr(splitter_module, "checked_capture", cut_once)


_CAPTURED: dict = {}


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def distributed(name, plan, *, count=0, optimizer=adam, **options):
    model, first, x, y = made(name)
    model.load_state_dict(first)
    devices = [Device(f"d{i}", "1 GiB") for i in range(count or plan.ranks)]
    options = {"on_failure": "resplit", **options}
    trainer = ParallelTrainer(devices, plan=plan, optimizer=optimizer, loss=F.cross_entropy, **options)
    trainer.distribute_model(model, x, y)
    torch.manual_seed(7)
    return trainer


def trained(trainer, name, before=lambda step: None):
    """Train, and return losses, what the model is then, and where the generator is."""
    model, _, x, y = made(name)
    losses = []
    for step in range(STEPS):
        before(step)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))
        losses.append(trainer.step(x[order], y[order]))
    state = {key: value.tolist() for key, value in model.state_dict().items()}
    return losses, state, torch.get_rng_state().tolist()


@functools.cache
def undisturbed(name, plan, optimizer=adam):
    return trained(distributed(name, plan, optimizer=optimizer), name)


def plan_of(ranks):
    return Plan(pp=ranks, microbatches=4, schedule="gpipe" if ranks == 3 else "1f1b")


class Trouble:
    """Counts what a device is asked in a step, and lets one of these go wrong."""

    def __init__(self, step, at):
        self.step, self.at, self.now, self.count, self.lock = step, at, -1, 0, threading.Lock()

    def begin(self, step):
        self.now, self.count = step, 0

    def due(self):
        with self.lock:
            self.count += 1
            return self.now == self.step and self.count == self.at


def out_of_memory(monkeypatch, trainer, victim, trouble, error):
    """Let a pass on a device of this process fail."""
    for name in ("forward", "backward"):
        real = getattr(Flight, name)

        def failing(self, *arguments, real=real):
            held = [part.layers for device in trainer.devices if device.id == victim for part in device.parts]
            if self._section.layers in held and trouble.due():
                raise error
            return real(self, *arguments)

        monkeypatch.setattr(Flight, name, failing)


def killed(monkeypatch, trainer, victim, trouble):
    """Kill the process of a device as it is asked something."""
    real = processes.Worker._exchange

    def exchange(self, *arguments):
        if self.name == victim and trouble.due():
            os.kill(self.process, signal.SIGKILL)
        return real(self, *arguments)

    monkeypatch.setattr(processes.Worker, "_exchange", exchange)


def tries(name, kind, asked):
    """Return five times: of how many devices which one fails, in which step, and at which of what it is asked."""
    rng = random.Random(f"{name} {kind}")
    drawn = [(ranks, rng.randrange(ranks), rng.randrange(STEPS), rng.randint(1, asked)) for ranks in (2, 3, 4, 2, 3)]
    return [pytest.param(name, ranks, f"d{i}", Trouble(step, at), id=f"{name}-d{i} of {ranks}-step {step}-{at}")
            for ranks, i, step, at in drawn]  # fmt: skip


NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
)


# Four micro-batches there and back.
@pytest.mark.parametrize(
    ("name", "ranks", "victim", "trouble"), [one for name in MODELS for one in tries(name, "m", 8)]
)
def test_a_device_out_of_memory_at_any_moment(monkeypatch, name, ranks, victim, trouble):
    trainer = distributed(name, plan_of(ranks))
    with monkeypatch.context() as patch:
        out_of_memory(patch, trainer, victim, trouble, NO_MEMORY[trouble.at % 3])
        assert trained(trainer, name, trouble.begin) == undisturbed(name, plan_of(ranks))
    assert [(one.device, one.step) for one in trainer.failures] == [(victim, trouble.step)]
    assert trainer.failures[0].reason.startswith("ran out of memory")
    assert trainer.plan.pp == ranks - 1 == len(trainer.parts) == len(trainer.devices)


# The weights, four micro-batches there and back, the gradients.
@pytest.mark.parametrize(
    ("name", "ranks", "victim", "trouble"), [one for name in MODELS for one in tries(name, "k", 10)]
)
def test_a_process_killed_at_any_moment(monkeypatch, name, ranks, victim, trouble):
    trainer = distributed(name, plan_of(ranks), processes=True)
    with monkeypatch.context() as patch:
        killed(patch, trainer, victim, trouble)
        assert trained(trainer, name, trouble.begin) == undisturbed(name, plan_of(ranks))
    assert [(one.device, one.step) for one in trainer.failures] == [(victim, trouble.step)]
    assert "was killed by SIGKILL" in trainer.failures[0].reason
    assert trainer.processes.keys() == {one.id for one in trainer.devices}


@pytest.mark.parametrize("plan", [Plan(dp=2, pp=2, microbatches=2), Plan(dp=3, microbatches=1)], ids=str)
def test_replicas_stay_as_many_and_share_devices(monkeypatch, plan):
    """The batch of 8 does not divide by 3: six samples."""
    batch = slice(0, 6 if plan.dp == 3 else 8)

    def run(trouble):
        model, first, x, y = made("cnn")
        model.load_state_dict(first)
        trainer = ParallelTrainer(
            [Device(f"d{i}", "1 GiB") for i in range(plan.ranks)], plan=plan, optimizer=sgd, loss=F.cross_entropy,
            on_failure="resplit",
        )  # fmt: skip
        trainer.distribute_model(nn.Sequential(*model), x[batch], y[batch])
        with monkeypatch.context() as patch:
            out_of_memory(patch, trainer, "d1", trouble, MemoryError())
            losses = []
            for step in range(3):
                trouble.begin(step)
                losses.append(trainer.step(x[batch], y[batch]))
        return losses, {name: value.tolist() for name, value in model.state_dict().items()}, trainer

    *expected, _ = run(Trouble(-2, 0))
    *found, trainer = run(Trouble(1, 2))
    assert found == expected
    assert trainer.plan.dp == plan.dp
    assert {part for device in trainer.devices for part in device.parts} == set(trainer.parts)


def test_replicas_are_merged_where_the_model_does_not_fit_otherwise(monkeypatch):
    """Half of the model fits a device and the whole does not: three devices hold one replica, not two."""
    model, first, x, y = made("mlp")
    plan = Plan(dp=2, pp=2, microbatches=2)
    torch.manual_seed(7)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    losses = []
    for trouble in (Trouble(-2, 0), Trouble(1, 2)):
        model.load_state_dict(first)
        devices = [Device(f"d{i}", int(whole * 0.7)) for i in range(4)]
        trainer = ParallelTrainer(devices, plan=plan, optimizer=sgd, loss=F.cross_entropy, on_failure="resplit")
        trainer.distribute_model(model, x, y)
        torch.manual_seed(7)
        with monkeypatch.context() as patch:
            out_of_memory(patch, trainer, "d1", trouble, MemoryError())
            losses.append(trained(trainer, "mlp", trouble.begin)[0])
    torch.testing.assert_close(losses[0], losses[1])
    assert trainer.plan.text == "pp=3 micro-batches=4 1f1b"


def test_shared_layers_share_what_is_left(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    first = {key: value.clone() for key, value in model.state_dict().items()}
    losses, styles = [], {"0": "colwise", "3": "rowwise"}
    for trouble in (Trouble(-2, 0), Trouble(1, 1)):
        model.load_state_dict(first)
        model.eval()  # sharing is held against the whole model; dropout would differ
        trainer = ParallelTrainer(
            [Device(f"d{i}", "1 GiB") for i in range(2)], plan=Plan(tp=2), optimizer=adam, loss=F.mse_loss,
            on_failure="resplit",
        )  # fmt: skip
        trainer.distribute_model(model, torch.ones(2, 8), torch.ones(2, 4), tensor_parallel=styles)
        with monkeypatch.context() as patch:
            out_of_memory(patch, trainer, "d0", trouble, MemoryError())
            for step in range(3):
                trouble.begin(step)
                losses.append(trainer.step(torch.ones(2, 8), torch.ones(2, 4)))
    assert losses[:3] == losses[3:]
    assert [len(device.parts) for device in trainer.devices] == [2]


def test_one_after_another_until_none_is_left(monkeypatch):
    plan = plan_of(3)
    trainer = distributed("cnn", plan, processes=True)

    def before(step):
        if step in (0, 2):  # the very first step too
            os.kill(next(iter(trainer.processes.values())), signal.SIGKILL)

    assert trained(trainer, "cnn", before) == undisturbed("cnn", plan)
    assert [(one.device, one.step) for one in trainer.failures] == [("d0", 0), ("d1", 2)]
    assert "dropped device d1 in step 2: its process" in repr(trainer)
    assert "over 1 devices, dp=1" in repr(trainer)
    model, _, x, y = made("cnn")
    before_it = {name: value.clone() for name, value in model.state_dict().items()}
    os.kill(trainer.processes["d2"], signal.SIGKILL)
    with pytest.raises(MpsimError, match=r"device d2 in step 4: its process \d+ was killed .*; no device is left; the"):
        trainer.step(x, y)
    assert all(torch.equal(value, before_it[name]) for name, value in model.state_dict().items())


def test_two_at_once_and_one_while_it_is_split_again(monkeypatch):
    trainer = distributed("mlp", plan_of(4), processes=True)
    real, killing = processes.Worker._exchange, []

    def exchange(self, verb, *arguments):
        if verb == "hold" and killing:
            os.kill(killing.pop(), signal.SIGKILL)
        return real(self, verb, *arguments)

    monkeypatch.setattr(processes.Worker, "_exchange", exchange)

    def before(step):
        if step == 3:
            killing.append(trainer.processes["d3"])
            for name in ("d0", "d2"):
                os.kill(trainer.processes[name], signal.SIGKILL)

    assert trained(trainer, "mlp", before) == undisturbed("mlp", plan_of(4))
    assert {(one.device, one.step) for one in trainer.failures} == {("d0", 3), ("d2", 3), ("d3", 3)}


@pytest.mark.parametrize("optimizer", [adam, sgd])
def test_an_update_is_whole_or_not_at_all(monkeypatch, optimizer):
    """The last of the optimizers fails when the others have updated; options that were changed are kept."""
    plan = plan_of(3)

    def run(failing):
        trainer = distributed("transformer", plan, optimizer=optimizer)
        made_by = {}

        def before(step):
            for update in trainer._updates:
                update.optimizer.param_groups[0]["lr"] = 0.02 / (1 + step)
            if step == failing:
                last = trainer._updates[-1].optimizer
                made_by["step"] = last.step
                last.step = lambda: (_ for _ in ()).throw(MemoryError())

        return trainer, trained(trainer, "transformer", before)

    (_, expected), (trainer, found) = run(None), run(2)
    assert found == expected
    assert [one.device for one in trainer.failures] == ["d2"]


def test_the_parts_of_a_step_one_by_one(monkeypatch):
    """Gradients of several batches, and those that were collected, outlive a device."""
    model, _, x, y = made("mlp")

    def run(trouble):
        trainer = distributed("mlp", plan_of(3), optimizer=sgd)
        with monkeypatch.context() as patch:
            out_of_memory(patch, trainer, "d1", trouble, MemoryError())
            for part in range(2):
                trouble.begin(part)
                trainer.run_batch(x, y)
            found = trainer.collect_gradients()
            if trouble.step == 2:
                trainer._updates[0].optimizer.step = lambda: (_ for _ in ()).throw(MemoryError())
            trainer.update_model()
        return {name: value.clone() for name, value in {**found, **model.state_dict()}.items()}, len(trainer.failures)

    expected, none = run(Trouble(-2, 0))
    for step in range(3):
        found, failures = run(Trouble(step, 3))
        assert (none, failures) == (0, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_tied_weight_is_one_after_all():
    torch.manual_seed(0)
    model = nn.Sequential(*[module for _ in range(4) for module in (nn.Linear(6, 6), nn.Tanh())])
    model[6].weight = model[0].weight
    first = {key: value.clone() for key, value in model.state_dict().items()}
    found = []
    for failing in (None, 1):
        model.load_state_dict(first)
        trainer = ParallelTrainer(
            [Device(f"d{i}", "1 GiB") for i in range(3)], optimizer=adam, on_failure="resplit", loss=F.mse_loss
        )
        trainer.distribute_model(model.double(), torch.ones(4, 6).double(), torch.zeros(4, 6).double())
        for step in range(4):
            if step == failing:
                trainer._updates[-1].optimizer.step = lambda: (_ for _ in ()).throw(MemoryError())
            found.append(trainer.step(torch.ones(4, 6).double(), torch.zeros(4, 6).double()))
    assert len(trainer.failures) == 1
    torch.testing.assert_close(found[:4], found[4:])


class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(self.embed(x))))


@pytest.mark.parametrize("in_processes", [False, True])
def test_errors_of_the_model_are_not_failures_of_a_device(in_processes):
    good, bad = torch.zeros(8, 3, dtype=torch.long), torch.full((8, 3), 9)
    devices = [Device(f"d{i}", "1 GiB") for i in range(2)]
    trainer = ParallelTrainer(devices, optimizer=sgd, on_failure="resplit", processes=in_processes)
    trainer.distribute_model(Picky(), good)
    before = trainer.processes
    for _ in range(2):
        with pytest.raises(IndexError, match="index out of range"):
            trainer.step(bad)
        trainer.step(good)
    with pytest.raises(MpsimError, match="micro-batch has tensors"):
        trainer.step(good[:2])
    assert (trainer.failures, trainer.processes, trainer.plan.pp) == ((), before, 2)


@pytest.mark.parametrize("in_processes", [False, True])
def test_an_interrupt_is_not_a_failure_of_a_device(monkeypatch, in_processes):
    trainer = distributed("mlp", plan_of(2), processes=in_processes)
    _, _, x, y = made("mlp")
    target, name = (processes, "receive") if in_processes else (Flight, "forward")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.step(x, y)
    assert trainer.step(x, y) > 0
    assert (trainer.failures, trainer.plan.pp) == ((), 2)


def test_by_default_what_happens_is_raised(monkeypatch):
    trainer = distributed("mlp", plan_of(2), on_failure="raise")
    _, _, x, y = made("mlp")
    trouble = Trouble(0, 3)
    trouble.begin(0)
    with monkeypatch.context() as patch:
        out_of_memory(patch, trainer, "d1", trouble, torch.OutOfMemoryError("CUDA out of memory"))
        with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory$"):
            trainer.step(x, y)
    assert trainer.step(x, y) > 0  # it may be used on
    trainer = distributed("mlp", plan_of(2), on_failure="raise", processes=True)
    os.kill(trainer.processes["d1"], signal.SIGTERM)
    with pytest.raises(
        MpsimError, match=r"device d1 in step 0: its process \d+ was killed by SIGTERM: on_failure='res"
    ):
        trainer.step(x, y)
    trainer.distribute_model(made("mlp")[0], x, y)
    assert trainer.step(x, y) > 0


def test_a_declared_memory_that_is_too_small():
    model, _, x, y = made("mlp")

    def trainer_of(*memories, **options):
        devices = [Device(f"d{i}", memory) for i, memory in enumerate(memories)]
        return ParallelTrainer(devices, loss=F.cross_entropy, on_failure="resplit", **options)

    trainer = trainer_of("1 GiB", 10, "1 GiB")
    trainer.distribute_model(model, x, y)
    assert trainer.failures[0].reason.startswith("device d1: the part of layers")
    assert str(trainer.failures[0]).startswith("device d1 in step 0: the part of layers")
    assert [device.id for device in trainer.devices] == ["d0", "d2"]
    trainer = trainer_of("700 B", "1 GiB")  # the cut into equal times does not fit, another one does
    trainer.distribute_model(model, x, y)
    assert trainer.failures == ()
    with pytest.raises(
        MpsimError, match=r"^device d0 in step 0: .*; Sequential cannot be split over the 1 device left: "
    ):
        trainer_of("300 B", "300 B").distribute_model(model, x, y)


def split(name, **options):
    model, first, x, _ = made(name)
    model.load_state_dict(first)
    model.zero_grad()
    torch.manual_seed(7)
    return ModelSplitter(model, 3, chunks=4, on_failure="resplit", **options), model, x


def two_batches(splitter, model, x):
    """Run two batches, and one backward through both; return outputs, gradients, statistics and the generator."""
    first, second = splitter(x), splitter(x.flip(0))
    (first.square().mean() + second.mean()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    state = {name: value.clone() for name, value in model.named_buffers()}
    return [first.detach(), second.detach(), gradients, state, torch.get_rng_state()]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_parts_goes_on_forward_and_backward(monkeypatch, name):
    expected = two_batches(*split(name))
    real = processes.Worker._exchange
    moments = [("forward", 6), ("backward", 7), ("forward", 2), ("backward", 1), ("gradients", 2)]
    for verb, nth in moments if name == "mlp" else moments[:2]:
        splitter, model, x = split(name, processes=True)
        asked = []

        def exchange(self, what, *arguments, verb=verb, nth=nth, asked=asked):
            if self.name == "1" and what == verb:
                asked.append(what)
                if len(asked) == nth:
                    os.kill(self.process, signal.SIGKILL)
            return real(self, what, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(processes.Worker, "_exchange", exchange)
            found = two_batches(splitter, model, x)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert [one.device for one in splitter.failures] == ["1"]
        assert splitter.num_devices == 2 == len(splitter.parts)
        assert "over 2 devices" in repr(splitter)
        assert "dropped device 1 in step" in repr(splitter)


def test_a_splitter_says_what_is_left(monkeypatch):
    splitter, _, x = split("mlp", processes=True)
    splitter(x)
    for process in splitter.processes.values():
        os.kill(process, signal.SIGKILL)
    with pytest.raises(MpsimError, match=r"device \d in step 1: its process .*; no device is left; the model has"):
        splitter(x)
    devices = [Device("a", "1 GiB"), Device("small", 10)]
    splitter = ModelSplitter(made("mlp")[0], devices=devices, example=x, on_failure="resplit")
    assert (splitter.num_devices, [one.device for one in splitter.failures]) == (1, ["small"])
    assert [len(device.parts) for device in devices] == [1, 0]


def test_a_splitter_whose_part_runs_out_of_memory(monkeypatch):
    batch = made("mlp")[2]
    expected = two_batches(*split("mlp"))
    splitter, model, x = split("mlp", example=batch)
    real, count = Flight.backward, []

    def failing(self, *arguments):
        count.append(1)
        if len(count) == 5:
            raise MemoryError
        return real(self, *arguments)

    monkeypatch.setattr(Flight, "backward", failing)
    torch.testing.assert_close(two_batches(splitter, model, x), expected, rtol=0, atol=0)
    assert len(splitter.failures) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParallelTrainer([Device("a", "1 GiB")], on_failure="retry"), "on_failure is 'retry': give 'raise' or"),
        (lambda: ModelSplitter(nn.Linear(1, 1), 1, on_failure=None), "on_failure is None: give 'raise' or 'resplit'"),
        (lambda: ParallelTrainer([Device("a", "1 GiB")] * 2, processes=True), "several devices are called a"),
        (lambda: ParallelTrainer([Device(n, "1 GiB") for n in "ab"], plan=Plan(tp=2), processes=True), "has tp=2"),
        (lambda: ModelSplitter(nn.Linear(1, 1), devices=["meta"], processes=True), "a device is meta"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(make, message):
    with pytest.raises(MpsimError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_example_of_the_documentation(capsys):
    text = (Path(__file__).parents[2] / "docs" / "emulate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "emulate.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("device middle in step 2: its process")
    assert "ParallelTrainer over 2 devices, pp=2" in out


def test_processes_end_with_who_uses_them():
    trainer = distributed("mlp", plan_of(2), processes=True)
    ids = trainer.processes.values()
    del trainer
    gc.collect()
    until = time.monotonic() + 30
    while any(map(running, ids)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(running, ids))


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
    data=st.data(),
)
def test_tensors_go_over_the_wire_as_they_lie(shape, dtype, data):
    value = torch.arange(torch.Size(shape).numel()).to(dtype).reshape(shape)
    value = value.permute(data.draw(st.permutations(range(len(shape)))))
    one, other = socket.socketpair()
    with one, other:
        send(one, [value, value])
        found, again = receive(other)
    assert found is again
    assert found.dtype == dtype
    assert torch.equal(found, value)
    assert value.numel() < 2 or found.stride() == value.stride() or 1 in value.shape


@given(dp=st.integers(1, 6), pp=st.integers(1, 6), microbatches=st.integers(1, 3), lost=st.integers(1, 5))
def test_plans_for_fewer_devices_cut_a_batch_alike(dp, pp, microbatches, lost):
    plan = Plan(dp=dp, pp=pp, microbatches=microbatches)
    left = max(1, plan.ranks - lost)
    first, *others = plans_for(plan, left, True)
    assert (first.dp, first.microbatches) == (dp, microbatches)
    assert first.pp <= pp
    for one in (first, *others):
        assert one.dp * one.microbatches == dp * microbatches
        assert one.ranks <= left or one.pp == 1
