"""Times of layers by a clock that is made up: each start and end is a tick further."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import mpsim.validate
from mpsim.workload.measure import ACCUMULATE, Repetition, measure, samples_of, two_clock_step
from mpsim.workload.step import Step
from mpsim.workload.watch import calls_of


class FakeClock:
    """Two clocks: what stands in a table on the device, a tenth of it on the host."""

    names = ("device", "host")
    two = True

    def __init__(self, seconds=lambda what: 1.0):
        self.of, self.asked = seconds, []

    def start(self, what):
        self.asked.append(what)
        return what

    def end(self, what):
        return what

    def seconds(self, what):
        return self.of(what), self.of(what) / 8

    def finish(self): ...

    def whole_s(self, run):
        run()
        return 16.0


TABLE = {
    ("forward", 0): 1.0, ("forward", 1): 2.0, ("backward for inputs", 1): 3.0, ("backward", 1): 5.0,
    ("backward", 0): 4.0, ("update", 0): 8.0, ("accumulate", 0): 0.5, ("accumulate", 1): 0.25,
}  # fmt: skip


def measured(inputs=True, own_table=None, **how):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)

    def run():
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    clock = FakeClock((own_table or TABLE).__getitem__)
    calls = calls_of(model, run)
    accumulating = {0: list(model[0].parameters()), 1: list(model[2].parameters())}
    rounds = measure(
        Step(model, run), calls, clock, accumulating, **{"repeats": 2, "warmup": 1, "inputs": inputs, **how}
    )
    return rounds, clock


def test_each_round_has_its_pieces_in_the_order_of_a_step():
    rounds, clock = measured()
    assert len(rounds) == 2
    assert [key for key, _ in rounds[0].pieces] == [
        ("forward", 0), ("forward", 1), ("backward for inputs", 1), ("backward", 1), ("backward", 0),
        (ACCUMULATE, 0), (ACCUMULATE, 1), ("update", 0),
    ]  # fmt: skip
    assert len(clock.asked) == 3 * 8
    assert rounds[0].whole_s == 16.0


def test_samples_of_the_device():
    rounds, _ = measured()
    first, second = samples_of(rounds, 2, 0, [0.75, 0.25])
    assert (first.forward_s, first.backward_input_s, first.backward_weight_s) == ((1.0,) * 2, (0.0,) * 2, (4.0,) * 2)
    assert (second.forward_s, second.backward_input_s, second.backward_weight_s) == ((2.0,) * 2, (3.0,) * 2, (2.0,) * 2)
    assert (first.optimizer_s, second.optimizer_s) == ((6.0,) * 2, (2.0,) * 2)
    assert (first.accumulate_s, second.accumulate_s) == ((0.5,) * 2, (0.25,) * 2)


def test_samples_of_the_host_are_a_list_of_their_own():
    rounds, _ = measured()
    first, second = samples_of(rounds, 2, 1, [0.5, 0.5])
    assert (first.forward_s, second.forward_s) == ((0.125,) * 2, (0.25,) * 2)
    assert first.optimizer_s == second.optimizer_s == (0.5,) * 2


def test_without_a_backward_for_inputs_all_of_it_is_given_to_them():
    rounds, _ = measured(inputs=False)
    first, second = samples_of(rounds, 2, 0, [1.0, 0.0], split=False)
    assert (first.backward_input_s, first.backward_weight_s) == ((4.0,) * 2, (0.0,) * 2)
    assert (second.backward_input_s, second.backward_weight_s) == ((5.0,) * 2, (0.0,) * 2)


def test_noise_never_makes_a_backward_for_weights_below_nothing():
    rounds, _ = measured(own_table=TABLE | {("backward for inputs", 1): 6.0})
    second = samples_of(rounds, 2, 0, [1.0, 0.0])[1]
    assert (second.backward_input_s, second.backward_weight_s) == ((5.0,) * 2, (0.0,) * 2)


def test_layers_make_the_step_without_what_is_only_measured():
    rounds, _ = measured()
    assert rounds[0].layers_s(two=False) == 1 + 2 + 5 + 4 + 8
    assert rounds[0].layers_s(two=True) == 1 + 2 + 5 + 4 + 8  # the host is eight times as fast


def test_every_run_begins_where_the_one_before_did():
    begun = []
    measured(again=lambda: begun.append(1), each=lambda: begun.append(2))
    assert begun == [1, 1, 2] * 3


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], 0.0),
        ([(2.0, 1.0), (2.0, 1.0)], 4.0),  # the device is the slower
        ([(1.0, 2.0), (1.0, 2.0)], 4.0),  # the host is: the device ends when the last launch does
        ([(4.0, 1.0), (0.5, 1.0), (0.5, 1.0)], 5.0),  # what the device has still to do hides two launches
        ([(0.5, 1.0), (4.0, 1.0)], 4.5),  # the host has launched the next step's first while the device is at work
    ],
)
def test_step_of_two_clocks_by_hand(parts, expected):
    assert two_clock_step(parts) == expected


def test_a_layer_that_is_at_work_twice_in_a_pass_adds_up():
    one = Repetition(pieces=[(("backward", 1), (1.0,)), (("backward", 0), (2.0,)), (("backward", 1), (4.0,))])
    assert one.total("backward", 1, 0) == 5.0


def recorded_steps():
    """Yield the recorded rows of an H200: name, the two-clock step of the layers, device alone, the step among many."""
    text = (Path(mpsim.validate.__file__).parent / "h200_steps.json").read_text(encoding="utf-8")
    for row in json.loads(text)["rows"]:
        step = row["steps"][0]
        order = [("forward", row["units"]), ("backward", row["units"][::-1])]
        pieces = []
        for phase, units in order:  # the units were launched one by one; the plain step says what launching them takes
            launched = step[f"host_{phase}_s"] / sum(unit[phase][0] for unit in units)
            pieces += [(unit[phase][1], unit[phase][0] * launched) for unit in units]
        pieces.append((row["optimizer_whole"][1], step["host_optimizer_s"]))
        device_s = sum(device for device, _ in pieces)
        yield row["model"], two_clock_step(pieces), device_s, step["back_to_back_s"]


def test_two_clocks_make_the_recorded_device_bound_steps():
    bound = [(name, made / true - 1) for name, made, device_s, true in recorded_steps() if device_s > 0.9 * made]
    assert len(bound) >= 5
    assert all(abs(error) < 0.015 for name, error in bound if "bf16" not in name), bound


def test_layers_alone_would_miss_the_recorded_launch_bound_steps():
    for name, made, device_s, true in recorded_steps():
        if device_s < 0.5 * true:
            assert abs(made / true - 1) < abs(device_s / true - 1), name
