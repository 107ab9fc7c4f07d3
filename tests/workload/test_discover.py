"""A training step of its user's own: what it trains is found, and all is as before afterwards."""

import copy

import pytest
import torch
from torch import nn

from mpsim.errors import MpsimError
from mpsim.workload.discover import discovered
from mpsim.workload.point import measured_point


class Own:
    """A user's step: its model, optimizer, and what is done with them."""

    def __init__(self, optimizer=torch.optim.AdamW):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.optimizer = optimizer(self.model.parameters(), lr=0.1)

    def __call__(self, batch):
        self.optimizer.zero_grad()
        loss = self.model(batch).pow(2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        return loss


BATCH = torch.ones(4, 4)


def pointed(step, batch=BATCH):
    with discovered(step, batch) as found:
        return found, measured_point(
            found, {"input": batch}, len(batch), depth="auto", optimizer="adamw", threads=1, repeats=1, warmup=1
        )


def picture(step):
    gradients = [None if p.grad is None else p.grad.clone() for p in step.model.parameters()]
    return copy.deepcopy(step.model.state_dict()), copy.deepcopy(step.optimizer.state_dict()), gradients


def alike(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


def test_layers_gradients_and_optimizer_state():
    step = Own()
    found, point = pointed(step)
    assert found.model is step.model
    assert found.optimizer is step.optimizer
    assert point.names == ["0", "1", "3"]
    assert point.check.differences == ()
    assert point.optimizer_bytes == [2 * 160 + 8, 2 * 64 + 8, 2 * 72 + 8]  # AdamW: two of each, and its step count
    assert [sorted(one.gradients) for one in point.accounts] == [
        [f"{name}.bias", f"{name}.weight"] for name in ("0", "1", "3")
    ]
    update_s = [sum(samples.optimizer_s) for samples in point.samples]
    assert min(update_s) > 0  # clipping and the update, shared by bytes


@pytest.mark.parametrize("steps", [0, 2])
def test_model_optimizer_gradients_and_numbers_are_as_before(steps):
    step = Own()
    for _ in range(steps):
        step(BATCH)
    before, state = picture(step), torch.get_rng_state()
    pointed(step)
    assert alike(picture(step)[:2], before[:2])  # its gradients a step throws away before it calls the model
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_that_were_there_keep_their_values():
    step = Own()
    for p in step.model.parameters():
        p.grad = torch.ones_like(p)
    before = picture(step)

    def adds(batch):
        step.model(batch).sum().backward()

    with discovered(adds, BATCH):
        pass
    assert alike(picture(step), before)


def test_two_models_are_layers_of_one_step():
    encoder, decoder = nn.Linear(4, 3), nn.Linear(3, 4)
    first, second = torch.optim.SGD(encoder.parameters(), 0.1, momentum=0.9), torch.optim.Adam(decoder.parameters())

    def step(batch):
        first.zero_grad(), second.zero_grad()
        (decoder(encoder(batch)) - batch).pow(2).mean().backward()
        first.step(), second.step()

    before = copy.deepcopy((encoder.state_dict(), decoder.state_dict()))
    _, point = pointed(step)
    assert point.names == ["Linear1", "Linear2"]
    assert point.optimizer_bytes == [60, 2 * 64 + 8]
    assert [(value.producer, list(value.readers)) for value in point.values if value.readers] == [
        (-1, [0, 1]),
        (0, [1]),
    ]
    assert alike((encoder.state_dict(), decoder.state_dict()), before)
    assert second.state == {}


def test_a_loss_with_parameters_is_a_layer():
    body, loss = nn.Linear(4, 4), nn.Bilinear(4, 4, 1)
    _, point = pointed(lambda batch: loss(body(batch), batch).mean().backward())
    assert point.names == ["Linear", "Bilinear"]


def test_a_part_that_runs_before_its_whole_is_no_model_of_its_own():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def step(batch):
        (model(batch) + model[0](batch)).sum().backward()

    def other_way(batch):
        (model[0](batch) + model(batch)).sum().backward()

    assert pointed(step)[0].model is model
    assert pointed(other_way)[0].model is model
    assert pointed(other_way)[1].names == ["0", "0@2", "1"]


def test_models_that_train_in_turn_are_refused():
    generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)

    def step(batch):
        critic(generator(batch).detach()).mean().backward()
        critic(generator(batch)).mean().backward()

    with pytest.raises(
        MpsimError, match=r"calls backward a second time: .*where models train in turn, trace a step of"
    ):
        pointed(step)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda batch: batch.sum(), "calls no module with parameters"),
        (lambda batch: nn.ReLU()(batch), "calls no module with parameters"),
        (nn.Linear(4, 4), "left no gradient: it calls no backward"),
    ],
)
def test_steps_that_train_nothing(step, message):
    with pytest.raises(MpsimError, match=message):
        pointed(step)


@pytest.mark.parametrize("when", ["first", "later"])
def test_a_step_that_fails_half_way_leaves_all_as_before(when):
    step, calls = Own(), []

    def fails(batch):
        calls.append(1)
        step(batch)
        if when == "first" or len(calls) > 2:
            raise KeyError("no more data")

    before, backward, state = picture(step), torch.autograd.backward, torch.get_rng_state()
    with pytest.raises(KeyError):
        pointed(fails)
    assert alike(picture(step), before)
    assert torch.autograd.backward is backward
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in step.model.modules())
    assert not nn.modules.module._global_forward_pre_hooks
    with torch.autograd.graph.disable_saved_tensors_hooks("none may be left"):
        pass


def test_a_step_in_mixed_precision_with_a_scaler():
    own, scaler = Own(torch.optim.SGD), torch.amp.GradScaler("cpu")

    def step(batch):
        own.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = own.model(batch).float().pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(own.optimizer)
        scaler.update()

    assert pointed(step)[1].check.differences == ()


def test_an_optimizer_that_calls_the_step_itself():
    own = Own(torch.optim.SGD)

    def closure(batch):
        own.optimizer.zero_grad()
        loss = own.model(batch).pow(2).mean()
        loss.backward()
        return loss

    assert pointed(lambda batch: own.optimizer.step(lambda: closure(batch)))[1].names == ["0", "1", "3"]


class Scheduled(Own):
    """A step with a schedule of the learning rate, autocast, a gradient scaler and a moving average."""

    def __init__(self):
        super().__init__()
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)
        self.scaler = torch.amp.GradScaler("cpu", growth_interval=1)
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        self.losses = torch.zeros(1)

    def __call__(self, batch):
        self.optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.model(batch).pow(2).mean()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.average.update_parameters(self.model)
        self.losses += loss.detach()

    def picture(self):
        steering = [copy.deepcopy(one.state_dict()) for one in (self.schedule, self.scaler, self.average)]
        return *picture(self), *steering, self.losses.clone()


@pytest.mark.parametrize("steps_before", [0, 2])
def test_schedules_scalers_averages_and_loose_tensors_are_as_before(steps_before):
    step = Scheduled()
    for _ in range(steps_before):
        step(BATCH)
    before = step.picture()
    _, point = pointed(step)
    assert alike(step.picture(), before)
    assert point.check.differences == ()  # the scale is the same in each step


def test_the_type_of_an_autocast_of_its_own_is_seen():
    assert pointed(Scheduled())[1].compute == "bfloat16"
    assert pointed(Own())[1].compute == "float32"


def test_a_step_without_an_optimizer_says_so():
    def step(batch):
        model(batch).pow(2).mean().backward()

    model = Own().model
    found, point = pointed(step)
    assert (found.updates, point.optimizer) == ("", "")
    assert "no optimizer" in point.notes[-1]


def test_two_optimizers_are_both_named():
    model = Own().model
    optimizers = torch.optim.AdamW(model[0].parameters()), torch.optim.SGD(model[3].parameters(), lr=0.1)

    def step(batch):
        model(batch).pow(2).mean().backward()
        for one in optimizers:
            one.step()

    assert pointed(step)[1].optimizer == "adamw+sgd"
