"""FSDP's collectives against PyTorch's own: kind, bytes, group and order of all that a step sends."""

import dataclasses
import functools
import itertools

import pytest
import torch
from fsdp_of_torch import Call, blocks_of, calls_of, fake_ranks, policy
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointWrapper,
    apply_activation_checkpointing,
)
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import mpsim
from mpsim.lowering.bind import scripts
from mpsim.lowering.instructions import Collective
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire
from mpsim.workload import zoo
from mpsim.workload.example import Example

TEXT = {"n_layer": 3, "hidden": 32, "n_head": 4, "ffn": 64, "vocab": 50, "seq": 16}
SIZES = {"gpt2": TEXT, "llama": {**TEXT, "n_kv_head": 2}}
MODELS = ("mlp", "gpt2", "llama")


def example_of(model: str) -> Example:
    """Return a fresh small model; no dimension of the first divides by four."""
    if model != "mlp":
        return zoo.get(model).build(2, **SIZES[model])
    layers = [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)]
    return Example(model=nn.Sequential(*layers), inputs=(torch.rand(2, 5),), target=torch.tensor([0, 2]))


@functools.cache
def workload_of(model: str) -> mpsim.Workload:
    return mpsim.trace(lambda size: example_of(model), 2, repeats=1, warmup=0, progress=False)


def predicted(model: str, dp: int, microbatches: int = 1, **of) -> list[Call]:
    """Return what rank 0 sends, in the order in which it posts it."""
    plan = Plan(dp=dp, microbatches=microbatches, sharding=Sharding(zero=3, **of))
    lowering = lower(workload_of(model), fully_connected(dp, link=Wire(1e9)), plan)
    found = [one for one in scripts(lowering)[0].steps if isinstance(one, Collective)]
    return [Call(one.kind, one.bytes, one.group) for one in found]


def real(model: str, dp: int, **of) -> list[Call]:
    with fake_ranks(dp, names=("dp",)) as mesh:
        return calls_of(example_of(model), mesh, **of)


@pytest.mark.parametrize("dp", [2, 4])
@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_a_step(model, dp, microbatches):
    found = real(model, dp, microbatches=microbatches)
    assert predicted(model, dp, microbatches) == found


RESHARDED = {"blocks": None, "all": True, "none": False}


@pytest.mark.parametrize("reshard", RESHARDED)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_kept_from_forward_to_backward(model, reshard):
    found = real(model, 4, microbatches=2, reshard_after_forward=RESHARDED[reshard])
    assert predicted(model, 4, 2, reshard_after_forward=reshard) == found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ahead", [0, 2, 9])
def test_explicit_prefetching(model, ahead):
    assert predicted(model, 2, 2, gather_ahead=ahead) == real(model, 2, microbatches=2, ahead=ahead)


@pytest.mark.parametrize("reshard", RESHARDED)
@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_accumulated(model, reshard):
    found = real(model, 4, microbatches=3, accumulate=True, reshard_after_forward=RESHARDED[reshard])
    assert predicted(model, 4, 3, accumulate=True, reshard_after_forward=reshard) == found


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_kept_all_step(model):
    found = real(model, 4, microbatches=3, accumulate=True, keep=True, reshard_after_forward=False)
    assert predicted(model, 4, 3, accumulate=True, keep_gathered=True) == found


@pytest.mark.parametrize("types", [("bfloat16", ""), ("bfloat16", "float32"), ("", "bfloat16")])
@pytest.mark.parametrize("model", MODELS)
def test_types_of_communication(model, types):
    gather, reduce = types
    found = real(model, 4, **policy(gather, reduce))
    assert predicted(model, 4, gather_dtype=gather, reduce_dtype=reduce) == found


@pytest.mark.parametrize("model", MODELS)
def test_one_unit(model):
    assert predicted(model, 4, 2, units="model") == real(model, 4, microbatches=2, blocks=[])


@pytest.mark.parametrize("sizes", [(2, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("model", MODELS)
def test_hybrid_sharding(model, sizes):
    """Replicas are the outer dim of torch's mesh: what each shard's replicas add up follows its reduce-scatter."""
    with fake_ranks(*sizes, names=("replicate", "shard")) as mesh:
        found = calls_of(example_of(model), mesh, microbatches=2)
    replicas, shards = sizes
    assert predicted(model, replicas * shards, 2, shards=shards) == found


@pytest.mark.parametrize(("model", "layers"), [("gpt2", "transformer.h.*"), ("llama", "model.layers.*")])
def test_a_second_forward_uses_what_its_backward_gathers(model, layers):
    """Each block is checkpointed: torch runs its forward again inside the backward for which it was gathered."""
    with fake_ranks(4, names=("dp",)) as mesh:
        example = example_of(model)
        apply_activation_checkpointing(example.model, check_fn=lambda module: module in blocks_of(example.model))
        blocks = [one for one in example.model.modules() if isinstance(one, CheckpointWrapper)]
        found = calls_of(example, mesh, microbatches=2, blocks=blocks)
    assert len(blocks) == 3
    assert predicted(model, 4, 2, recompute=layers) == found


def test_between_ranks_that_share_layers():
    """Two replicas of two ranks that share each layer: each rank's own parts go between it and its peer alone."""
    sizes, plan = (7, 12, 10, 12, 6), {"0": "colwise", "2": "rowwise", "4": "colwise", "6": "rowwise"}

    def example() -> Example:
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        return Example(model=nn.Sequential(*layers[:-1]), inputs=(torch.rand(2, 7),), target=torch.tensor([0, 2]))

    with fake_ranks(2, 2, names=("dp", "tp")) as mesh:
        shared = example()
        styles = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
        parallelize_module(shared.model, mesh["tp"], {path: styles[style]() for path, style in plan.items()})
        found = calls_of(shared, mesh["dp"], microbatches=2)
    work = mpsim.trace(
        lambda size: dataclasses.replace(example(), tensor_parallel=plan),
        2, tensor=(1, 2), repeats=1, warmup=0, progress=False,
    )  # fmt: skip
    two = Plan(dp=2, tp=2, microbatches=2, sharding=Sharding(zero=3))
    steps = scripts(lower(work, fully_connected(4, link=Wire(1e9)), two))[0].steps
    made = [one for one in steps if isinstance(one, Collective) and one.axis == "dp"]
    assert [Call(one.kind, one.bytes, one.group) for one in made] == found
    assert {call.group for call in found} == {(0, 2)}


def test_what_is_recorded_tells_settings_apart():
    """Three blocks and a root: four gathers forward, three backward, four reductions; each setting its own order."""
    found = real("gpt2", 4)
    assert [sum(call.kind == kind for call in found) for kind in ("all_gather", "reduce_scatter")] == [7, 4]
    assert {call.group for call in found} == {(0, 1, 2, 3)}
    others = [real("gpt2", 4, **of) for of in ({"ahead": 0}, {"ahead": 2}, {"reshard_after_forward": False})]
    assert len({tuple(calls) for calls in (found, *others)}) == 4
