"""What a rank holds, by hand: inside layers, gradients as they are made, the update, and what PyTorch holds on CUDA."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim import Plan, Workload, parse_topology, simulate
from mpsim.program.allocator import segment_bytes
from mpsim.workload.model import Layer, Precision

ONE = parse_topology("chain:1,link=1GB/s@0")
MIB = 2**20


def layer(name, saved=0, weights=0, forward=0, backward=0, state=0):
    made = Layer.given(name, forward_s=1.0, backward_s=2.0, optimizer_s=1.0, parameter_bytes=weights, saved_bytes=saved)
    (cost,), (shard,) = made.costs, made.shards
    cost = replace(cost, forward_transient_bytes=forward, backward_transient_bytes=backward)
    return replace(made, costs=(cost,), shards=(replace(shard, optimizer_bytes=state),))


def memory(*layers, plan=None, **of):
    work = replace(Workload.chain("held", list(layers)), **of)
    return simulate(work, ONE, plan or Plan()).devices[0].memory


def test_the_last_layer_of_forward_holds_everything_and_its_own():
    found = memory(layer("a", saved=100), layer("b", saved=40, forward=400))
    assert (found.activations_bytes, found.transients_bytes, found.peak_bytes) == (140, 400, 540)


def test_an_early_layer_of_forward_has_not_yet_what_comes_behind():
    """a: 100 kept and 400 inside it; b: 140 kept. Then b's backward, with 140 kept and 350 inside it."""
    found = memory(layer("a", saved=100, forward=400), layer("b", saved=40, backward=350))
    assert found.peak_bytes == max(100 + 400, 140 + 350)
    assert memory(layer("a", saved=100, forward=400), layer("b", saved=40)).peak_bytes == 500


def test_backward_makes_gradients_while_it_frees_activations():
    """b's backward: 140 kept and its 8 of gradients; a's: 100 and 8 + 64; the update: 72 of gradients."""
    layers = layer("a", saved=100, weights=64), layer("b", saved=40, weights=8)
    found = memory(*layers)
    assert found.peak_bytes == 72 + max(140 + 8, 100 + 72, 72)
    assert (found.parameters_bytes, found.gradients_bytes, found.activations_bytes) == (72, 72, 100)


def test_later_backwards_add_to_gradients_that_are_there():
    layers = layer("a", saved=100, weights=64), layer("b", saved=40, weights=8)
    found = memory(*layers, plan=Plan(microbatches=2))
    assert found.peak_bytes == 72 + 72 + max(140 + 8, 100 + 64)


@pytest.mark.parametrize("runtime", ["ideal", "torch-nccl"])
def test_replicas_hold_the_same(runtime):
    layers = layer("a", saved=100, weights=64, state=8), layer("b", saved=40, weights=8, state=8)
    work = Workload.chain("held", list(layers), activation_bytes=8)
    found = simulate(work, parse_topology("switch:4,link=1GB/s@0"), Plan(dp=2, pp=2, microbatches=2, runtime=runtime))
    first, second, *others = [use.memory.peak_bytes for use in found.devices]
    assert others == [first, second]


def test_on_cuda_the_update_works_on_a_copy_and_cublas_has_room():
    of = {"optimizer": "adamw", "clock": "cuda-kernel", "device": "NVIDIA H200"}
    layers = layer("a", saved=16, weights=64, state=128), layer("b", saved=16, weights=8, state=16)
    found = memory(*layers, **of)
    assert (found.transients_bytes, found.workspace_bytes) == (72, 64 * MIB)
    assert found.peak_bytes == 72 + 144 + 72 + 72 + 64 * MIB
    assert found.reserved_bytes == 64 * MIB + 3 * 2 * MIB  # parameters, states and the rest, each in a small segment
    assert memory(*layers, **(of | {"device": "NVIDIA A100-SXM4-80GB"})).workspace_bytes == 2 * 8_519_680
    assert memory(*layers, **(of | {"optimizer": "sgd"})).transients_bytes == 0
    assert memory(*layers, **(of | {"clock": "thread-cpu"})).reserved_bytes == 0


def test_master_weights_count_beside_what_the_optimizer_keeps():
    found = memory(layer("a", weights=64), precision=Precision(name="fp64-master", master="float64"))
    assert (found.parameters_bytes, found.master_bytes) == (64, 128)


@pytest.mark.parametrize(
    ("sizes", "segments"),
    [
        ([], []),
        ([1], [2]),
        ([MIB, MIB, 1], [2, 2]),
        ([MIB + 1], [20]),
        ([9 * MIB, 9 * MIB, 2 * MIB, MIB + 1], [20, 20]),
        ([10 * MIB], [10]),
        ([11 * MIB, MIB + 512], [12, 20]),
        ([12 * MIB + 1, 2 * MIB], [14, 20]),
    ],
)
def test_segments_by_hand(sizes, segments):
    assert segment_bytes(sizes) == sum(segments) * MIB


@given(st.lists(st.integers(1, 40 * MIB), max_size=12))
def test_segments_hold_what_is_put_in_them(sizes):
    assert sum(sizes) <= segment_bytes(sizes) <= sum(max(20 * MIB, size + 2 * MIB) for size in sizes)
