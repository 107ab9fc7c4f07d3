"""Alike blocks watched once, and one run for several micro-batches, against the whole model run at each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.workload import analytical, fake
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.source import factory_source, resolve_model
from mpsim.workload.stand_in import STAND_IN, Each, StandIn, larger, summed

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from torch import nn  # noqa: E402

from mpsim.workload.folding import folds_of, shortened  # noqa: E402
from mpsim.workload.trace import trace  # noqa: E402

TOY = DeviceSpec(
    name="toy", peak_flops_per_s={"float32": 1e12, "bfloat16": 4e12}, memory_bytes_per_s=1e11, kernel_floor_s=1e-6
)
DECODER = {"hidden": 32, "n_head": 4, "ffn": 64, "vocab": 48, "seq": 8}
GROUPED = {**DECODER, "n_kv_head": 2}
CASES = {
    "gpt2": ({**DECODER, "n_layer": 5, "positions": 8}, ("tp=2,sequence",), (2, 3)),
    "llama": ({**GROUPED, "n_layer": 5}, ("tp=2,sequence",), (1, 2, 4)),
    "bert-base": ({**DECODER, "n_layer": 5, "positions": 8}, ("tp=2",), (2, 3)),
    "mixtral": ({**GROUPED, "n_layer": 5, "n_expert": 4, "top_k": 2}, ("tp=2,ep=2",), (2, 3)),
    "t5-small": ({**DECODER, "n_layer": 5, "n_decoder_layer": 6, "head_dim": 8, "target_seq": 4}, ("tp=2",), (2,)),
}


def traced(name, sizes, splits, batches):
    how = {"splits": splits, "microbatches": batches, "precision": "bf16", "analytical": TOY, "progress": False}
    return replace(trace(resolve_model(name, sizes), **how), provenance=Provenance())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
def test_the_workload_is_that_of_the_whole_model_run_at_each_point(name, case, monkeypatch):
    watched, told = [], 1
    watch = analytical.Rooflines._costed

    def costed(self, example, sizes):
        nonlocal told
        told = max(told, len(sizes))
        watched.append(sum(1 for one in example.model.modules() if type(one).__name__.endswith(("Block", "Layer"))))
        return watch(self, example, sizes)

    monkeypatch.setattr(analytical.Rooflines, "_costed", costed)
    quick = traced(name, *case)
    blocks = max(watched)
    monkeypatch.setattr(analytical.Rooflines, "_alike_sizes", lambda self: ())
    for room in (analytical, fake):
        monkeypatch.setattr(room, "folds_of", lambda model: ())
    watched.clear()
    assert quick == traced(name, *case)
    assert blocks < max(watched)
    assert told > 1 or len(case[2]) == 1


class Block(nn.Module):
    def __init__(self, place, width=4):
        super().__init__()
        self.layer_idx, self.up, self.down = place, nn.Linear(4, width), nn.Linear(width, 4)

    def forward(self, rows):
        return rows + self.down(self.up(rows))


class Stack(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.first, self.blocks = nn.Linear(4, 4), nn.ModuleList(blocks)

    def forward(self, rows):
        rows = self.first(rows)
        for block in self.blocks:
            rows = block(rows)
        return rows


def left_out(blocks):
    return [fold.left_out for fold in folds_of(Stack(blocks))]


def test_runs_of_alike_blocks():
    assert left_out(Block(i) for i in range(7)) == [("3", "4", "5")]
    assert left_out(Block(i) for i in range(4)) == []
    assert left_out(Block(i, 4 if i % 2 else 8) for i in range(10)) == [("6", "7")]  # in turn: units of two
    assert left_out(Block(i, 8 if i < 2 else 4) for i in range(8)) == [("5", "6")]
    shared = Block(0)
    assert left_out([shared] * 8) == []
    marked = [Block(i) for i in range(8)]
    for i, block in enumerate(marked):
        block.drop = i / 10  # each another number that is not its place
    assert left_out(marked) == []


def test_a_shortened_model_is_put_back():
    model = Stack(Block(i) for i in range(7))
    with shortened(model, folds_of(model)):
        assert len(model.blocks) == 4
    assert list(model.blocks._modules) == [str(i) for i in range(7)]


class Skips(Stack):
    def forward(self, rows):
        made = [rows := self.first(rows)]
        for block in self.blocks:
            made.append(rows := block(rows))
        return sum(made)


class ByNumber(Stack):
    def forward(self, rows):
        rows = self.first(rows)
        for i in range(7):
            rows = self.blocks[i](rows) if i % 3 else self.blocks[i](rows).relu()
        return rows


@pytest.mark.parametrize("kind", [Stack, Skips, ByNumber])
def test_a_model_that_cannot_be_shortened_is_watched_whole(kind, monkeypatch):
    source = factory_source(lambda size: (kind(Block(i) for i in range(7)), torch.ones(size, 4)), 2, "mine")
    how = {"analytical": TOY, "microbatches": (2, 3), "progress": False}
    quick = trace(source, **how)
    for room in (analytical, fake):
        monkeypatch.setattr(room, "folds_of", lambda model: ())
    assert replace(quick, provenance=Provenance()) == replace(trace(source, **how), provenance=Provenance())


numbers = st.integers(-(2**40), 2**40)
several = st.tuples(numbers, numbers, numbers).map(Each) | numbers


@given(several, several)
def test_numbers_at_several_micro_batches_are_added_one_by_one(a, b):
    def at(number, i):
        return number.values[i] if isinstance(number, Each) else number

    for i in range(3):
        assert at(a + b, i) == at(a, i) + at(b, i)
        assert at(a - b, i) == at(a, i) - at(b, i)
        assert at(larger(a, b), i) == max(at(a, i), at(b, i))
    assert summed([1e16, 1.0, Each((-1e16, 0.0)), 1.0]) == Each((2.0, 1e16 + 2))


@given(st.integers(1, 99), st.integers(1, 64), st.integers(1, 64))
def test_what_grows_with_the_stand_in_grows_with_a_micro_batch(size, rows, width):
    stand_in = StandIn((size, 1))
    assert stand_in.shape((STAND_IN * rows, width), 0) == (size * rows, width)
    assert stand_in.number(STAND_IN * rows * width) == Each((size * rows * width, rows * width))
    assert stand_in.number(width) == width


def test_dimensions_that_do_not_grow_in_proportion_are_refused():
    for odd in (STAND_IN + 1, STAND_IN * STAND_IN):
        with pytest.raises(MpsimError, match="does not grow in proportion"):
            StandIn((2,)).shape((odd,), 0)
    assert StandIn((2,), {STAND_IN + 1}).shape((STAND_IN + 1,), 0) == (STAND_IN + 1,)
