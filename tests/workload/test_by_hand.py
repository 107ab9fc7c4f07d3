"""Layers and chains made by hand: micro-batches, shards and collectives in one line each."""

import pytest

from mpsim.errors import MpsimError
from mpsim.workload.costs import cost_at
from mpsim.workload.layers import Layer, ShardCollective
from mpsim.workload.model import Workload
from mpsim.workload.split import Split, split_text


def test_several_micro_batches_in_one_line():
    layer = Layer.given("a", forward_s={1: 0.5, 4: 1.25}, backward_s={1: 1.0, 4: 2.5}, saved_bytes={1: 8, 4: 32})
    assert [(cost.microbatch, cost.samples.forward_s, cost.saved_bytes) for cost in layer.costs] == [
        (1, (0.5,), 8),
        (4, (1.25,), 32),
    ]
    assert cost_at(layer, 2).samples.forward_s == (0.75,)


def test_a_number_stands_for_all_micro_batches():
    layer = Layer.given("a", forward_s={1: 0.5, 2: 0.75}, backward_s=1.0)
    assert [cost.samples.backward_input_s for cost in layer.costs] == [(0.5,), (0.5,)]


def test_shards_say_what_differs():
    half = {"forward_s": 0.25, "parameter_bytes": 32, "collectives": [("all_reduce", 64)]}
    layer = Layer.given("a", forward_s=0.5, backward_s=1.0, parameter_bytes=64, shards={"tp=2,sequence": half})
    split = Split(tp=2, sequence=True)
    assert layer.shard().parameter_bytes == 64
    assert layer.shard(split).parameter_bytes == 32
    cost = cost_at(layer, 1, split)
    assert (cost.samples.forward_s, cost.samples.backward_input_s) == ((0.25,), (0.5,))
    assert cost.collectives == tuple(
        ShardCollective(kind="all_reduce", bytes=64, phase=phase) for phase in ("forward", "backward")
    )


def test_collectives_grow_with_the_micro_batch():
    call = ShardCollective(kind="all_gather", bytes=64, phase="forward", axis="cp", when="before")
    layer = Layer.given("a", forward_s={1: 1.0, 2: 2.0}, backward_s=1.0, collectives=[call], split="cp=2")
    assert [cost.collectives[0].bytes for cost in layer.costs] == [64, 128]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: Layer.given("a", forward_s={1: 1.0}, backward_s={2: 1.0}),
            "backward_s is given at micro-batch 2, not",
        ),
        (lambda: Layer.given("a", forward_s=1, backward_s=1, shards={2: {"forward": 1}}), "did you mean 'forward_s'"),
        (
            lambda: Layer.given("a", forward_s=1, backward_s=1, shards={1: {}}),
            "two costs for one micro-batch and split",
        ),
        (lambda: Layer.given("a", forward_s=1, backward_s=1, split="pp=2"), "write a number of ranks, or such as"),
        (lambda: Layer.given("a", forward_s=1, backward_s=1, collectives=[("all_reduce", 8)]), "no ranks share"),
        (
            lambda: Layer.given("a", forward_s=1, backward_s=1, split=2, collectives=[("reduce", 8)]),
            "unknown collective",
        ),
        (lambda: Layer.given("a", forward_s=1, backward_s=1, split=0), "tensor_parallel is 0"),
        (lambda: split_text("sequence"), "give tp 2 or more"),
        (lambda: split_text("tp=2,tp=4"), "write a number of ranks"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(MpsimError, match=says):
        make()


def shared():
    return [Layer.given(name, forward_s=1.0, backward_s=2.0, shards={2: {}, "cp=2": {}}) for name in "ab"]


@pytest.mark.parametrize(("sends", "tp", "cp"), [("whole", 64, 32), ("part", 32, 32)])
def test_a_chain_sends_what_it_says(sends, tp, cp):
    between = Workload.chain("w", shared(), activation_bytes=64, sends=sends).tensors[1]
    assert (between.bytes(), between.bytes(2), between.bytes(Split(cp=2))) == (64, tp, cp)


def test_a_chain_that_does_not_say_what_its_ranks_send_is_refused():
    with pytest.raises(MpsimError, match=r"layers that ranks share \(tp=1 cp=2\), sends is '': say 'whole' if each"):
        Workload.chain("w", shared(), activation_bytes=64)


def test_parts_must_be_whole():
    with pytest.raises(MpsimError, match="activation of 63 bytes does not divide into 2 parts"):
        Workload.chain("w", shared(), activation_bytes=63, sends="part")
