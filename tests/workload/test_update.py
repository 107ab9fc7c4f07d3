"""The update: one call, and what of it is each layer's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.workload import update
from mpsim.workload.update import OPTIMIZERS, optimizer_state_bytes, shares, state_bytes, update_rates

sizes = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10**9)), min_size=1, max_size=8)
rate = st.floats(0, 1e-3)


@given(sizes, st.tuples(rate, rate))
def test_shares_add_up_to_one_where_anything_is_owned(owned, rates):
    found = shares(owned, rates)
    assert all(part >= 0 for part in found)
    assert sum(found) == pytest.approx(1.0) or sum(found) == 0.0


def test_shares_by_bytes_where_no_rate_was_seen():
    assert shares([(3, 100), (1, 300)], (0.0, 0.0)) == [0.25, 0.75]


@given(st.integers(1, 64), st.integers(1, 64))
def test_rates_are_solved_exactly_on_made_up_numbers(tensor_ticks, byte_ticks):
    """A call costs 7 s, a tensor and a byte so many 1/64 s: both come back, whatever the call costs."""
    parts = [(8, 4096), (4, 256), (1, 32)]
    tensor_s, byte_s = tensor_ticks / 64, byte_ticks / 64
    smaller = parts[1][1]
    seconds = [7 + tensor_s * 8 + byte_s * (4096 - smaller), 7 + tensor_s * 4, 7 + tensor_s]
    assert update._rates(parts, seconds) == (tensor_s, byte_s)


def test_rates_of_one_tensor_are_none():
    assert update._rates([(1, 100), (1, 100), (1, 100)], [3.0, 3.0, 3.0]) == (0.0, 0.0)


def test_rates_come_from_updates_of_all_of_half_and_of_one():
    asked = []

    class Clock:
        names, two = ("a",), False

        def start(self, what):
            asked.append(what)
            return what

        def end(self, start):
            return start

        def seconds(self, piece):
            return (float(piece[1]),)

        def finish(self): ...

    weights = [torch.nn.Parameter(torch.ones(size)) for size in (1, 2, 4, 1000)]
    before = [weight.detach().clone() for weight in weights]
    optimizer = OPTIMIZERS["adamw"](weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert update_rates("adamw", optimizer, Clock(), repeats=1) == [(1.0, 0.0)]
    assert asked == [("part", 4), ("part", 2), ("part", 1)] * 2
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_by_formula_is_the_state_that_there_is(name):
    weights = [torch.nn.Parameter(torch.ones(size)) for size in (3, 5)]
    optimizer = OPTIMIZERS[name](weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer_state_bytes(name, 32, 2) == state_bytes(optimizer, weights)


def test_unknown_optimizer():
    with pytest.raises(MpsimError, match="unknown optimizer 'adamv'; did you mean 'adam"):
        optimizer_state_bytes("adamv", 1)
