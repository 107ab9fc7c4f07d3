"""A sequence shared by tensor-parallel ranks: what goes between layers, what is exchanged, what is refused."""

from __future__ import annotations

import pytest

from mpsim import trace
from mpsim.errors import MpsimError
from mpsim.workload import zoo
from mpsim.workload.split import Split

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from mpsim.lowering.rescaling import roofline_of  # noqa: E402
from mpsim.workload.account import LayerAccount  # noqa: E402
from mpsim.workload.example import Example  # noqa: E402
from mpsim.workload.model import ShardCollective  # noqa: E402
from mpsim.workload.point import Point  # noqa: E402
from mpsim.workload.sharding import _keep_parts  # noqa: E402
from mpsim.workload.tensor_parallel import local_shard  # noqa: E402

BATCH, SEQ, HIDDEN, VOCAB = 2, 16, 32, 48
TEXT = {"n_layer": 1, "hidden": HIDDEN, "n_head": 4, "ffn": 64, "vocab": VOCAB, "seq": SEQ}
SMALL = {
    "bert-base": TEXT,
    "gpt2": TEXT,
    "llama": {**TEXT, "n_kv_head": 2},
    "qwen3": {**TEXT, "n_kv_head": 2, "head_dim": 8},
    "mixtral": {**TEXT, "n_kv_head": 2, "n_expert": 4, "top_k": 2},
    "t5-small": {**TEXT, "n_decoder_layer": 1, "head_dim": 8, "target_seq": SEQ},
}
SHARED = Split(tp=2, sequence=True)


def small(name):
    return zoo.get(name).build(BATCH, **SMALL[name])


def test_a_transformer_block_gathers_and_scatters_twice_each_way():
    size, block = BATCH * SEQ * HIDDEN * 4, "model.layers.0."
    found = [c for c in local_shard(small("llama"), SHARED).collectives if c.module.startswith(block)]
    assert [(c.module.removeprefix(block), c.kind, c.phase, c.when) for c in found] == [
        ("self_attn", "all_gather", "forward", "before"),
        ("self_attn.o_proj", "reduce_scatter", "forward", "behind"),
        ("mlp", "all_gather", "forward", "before"),
        ("mlp.down_proj", "reduce_scatter", "forward", "behind"),
        ("mlp.down_proj", "all_gather", "backward", "before"),
        ("mlp", "reduce_scatter", "backward", "behind"),
        ("self_attn.o_proj", "all_gather", "backward", "before"),
        ("self_attn", "reduce_scatter", "backward", "behind"),
    ]
    assert {c.bytes for c in found} == {size}


@pytest.mark.parametrize("name", SMALL)
def test_a_rank_runs_alone_and_trains_all_it_has(name):
    local = local_shard(small(name), SHARED)
    example = local.example
    example.loss(example.model(*example.inputs), example.target).backward()
    parameters = dict(example.model.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    assert local.partial <= set(parameters)
    assert all(parameters[path].shape == small(name).model.get_parameter(path).shape for path in local.partial)


def test_what_runs_on_parts_has_partial_gradients():
    assert local_shard(small("gpt2"), SHARED).partial == {
        "transformer.wpe.weight",
        *(f"transformer.h.0.{norm}.{name}" for norm in ("ln_1", "ln_2") for name in ("weight", "bias")),
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    }


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_tensors_between_layers_are_a_part_of_the_sequence(name):
    work = trace(
        lambda _: small(name),
        microbatches=(BATCH,),
        tensor=(1, 2),
        splits=(SHARED,),
        depth=3,
        analytical=roofline_of("H100-SXM5-80GB"),
    )
    between = [one for one in work.tensors if one.producer and one.consumers and one.needs_gradient]
    assert between
    for tensor in between:
        assert tensor.bytes(SHARED) * 2 == tensor.bytes()
        assert tensor.bytes(2) == tensor.bytes()
    partial = {g.parameter for layer in work.layers for g in layer.shard(SHARED).gradients if g.partial}
    assert partial
    assert not any(g.partial for layer in work.layers for g in layer.shard(2).gradients)


def test_norms_take_half_and_linears_as_long_as_without():
    model = nn.Sequential(nn.LayerNorm(64), nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)))
    example = Example(
        model=model, inputs=(torch.rand(2, 32, 64),), tensor_parallel={"1.0": "colwise", "1.2": "rowwise"}
    )
    seen = {}
    for split in (Split(tp=2), SHARED):
        local = local_shard(example, split).example
        for path in ("0", "1.0", "1.2"):
            note = lambda module, inputs, output, key=(split, path): seen.update({key: inputs[0].shape[1]})  # noqa: E731
            local.model.get_submodule(path).register_forward_hook(note)
        local.model(*local.inputs)
    assert [seen[SHARED, path] for path in ("0", "1.0", "1.2")] == [16, 32, 32]
    assert [seen[Split(tp=2), path] for path in ("0", "1.0", "1.2")] == [32, 32, 32]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            lambda: zoo.get("llama").build(1, **{**SMALL["llama"], "seq": 15}),
            "a sequence of 15 does not divide by the 2",
        ),
        (lambda: zoo.get("mnist-mlp").build(8), "is fed no sequence that ranks could share: feed it tokens"),
        (lambda: zoo.get("vit-b16").build(1, image=32, n_layer=1), "is fed no sequence that ranks could share"),
    ],
)
def test_what_cannot_share_a_sequence_is_refused(example, message):
    with pytest.raises(MpsimError, match=message) as error:
        local_shard(example(), SHARED)
    assert "\n" not in str(error.value)


def test_a_roofline_of_shared_attention_says_by_how_much_it_flatters():
    """Flash attention of 2 ranks: whole squares of 2 pieces with a mask, and half of one without: 3/4 of one's half."""
    work = trace(
        lambda _: small("llama"),
        microbatches=(BATCH,),
        splits=("cp=2",),
        context="ring",
        depth=3,
        analytical=roofline_of("H100-SXM5-80GB"),
    )
    (attention,) = (layer for layer in work.layers if layer.name.endswith("self_attn"))
    products = {cost.split.cp: cost.flops for cost in attention.costs}
    projections = 2 * BATCH * SEQ * HIDDEN * (HIDDEN + 2 * HIDDEN // 2 + HIDDEN)
    square = 4 * BATCH * SEQ * SEQ * HIDDEN
    assert products == {1: projections + square, 2: projections // 2 + square // 2 * 3 // 4}
    assert any("cp looks 1.33 times too good" in note for note in work.notes)


def block_of(split, **how):
    """Return the cost of a feed-forward behind a norm: 2 sequences of 32 tokens of 64 features, 256 inside."""
    model = nn.Sequential(nn.LayerNorm(64), nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)))
    styles = {"1.0": "colwise", "1.2": "rowwise"}
    example = Example(model=nn.ModuleDict({"a": model})["a"], inputs=(torch.rand(2, 32, 64),), tensor_parallel=styles)
    work = trace(
        lambda _: example,
        microbatches=(2,),
        splits=(split,),
        depth=1,
        analytical=roofline_of("H100-SXM5-80GB"),
        **how,
    )
    (layer,) = (layer for layer in work.layers if layer.name == "1")
    return next(cost for cost in layer.costs if cost.split == split)


def test_what_is_gathered_again_is_not_kept():
    """Kept are what the first Linear reads, whole (16 KiB) or the rank's half, and what the second reads, 32 KiB."""
    whole, part, inside = 2 * 32 * 64 * 4, 2 * 16 * 64 * 4, 2 * 32 * 128 * 4
    kept, again = block_of(SHARED), block_of(SHARED, regather=True)
    assert (kept.saved_bytes, again.saved_bytes) == (whole + inside, part + inside)
    more = [one for one in again.collectives if one not in kept.collectives]
    assert [(one.kind, one.bytes, one.phase, one.when) for one in more] == [("all_gather", whole, "backward", "beside")]


def test_what_is_gathered_again_is_there_for_a_while_in_backward():
    again = ShardCollective(kind="all_gather", bytes=64, phase="backward", axis="tp", when="beside")
    accounts = [LayerAccount(saved_bytes=100, backward_transient_bytes=8)]
    point = Point(microbatch=1, split=SHARED, names=["a"], kinds=["Linear"], accounts=accounts, collectives=[[again]])
    _keep_parts(point)
    assert (accounts[0].saved_bytes, accounts[0].backward_transient_bytes) == (100 - 64 // 2, 8 + 64)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"splits": ("tp=2",)}, "regather is of ranks that share a sequence"),
        (
            {"splits": (SHARED,), "precision": "bf16-mixed"},
            "bf16-mixed keeps what is gathered in bfloat16 and gathers it",
        ),
    ],
)
def test_regathering_that_cannot_be_is_refused(how, message):
    with pytest.raises(MpsimError, match=message):
        trace(lambda _: small("llama"), microbatches=(BATCH,), regather=True, **how)


def test_a_block_that_keeps_parts_alone_keeps_an_equal_part_of_all():
    """As table 2 of the paper: all is divided by tp; without sequences shared, what norms read and write is not.

    In units of batch · sequence · hidden numbers that is 4, of two norms.
    """
    work = trace(
        lambda _: small("gpt2"),
        microbatches=(BATCH,),
        tensor=(1, 2),
        splits=(SHARED,),
        depth=4,
        analytical=roofline_of("H100-SXM5-80GB"),
        regather=True,
    )
    kept = {}
    for layer in work.layers:
        for cost in layer.costs if layer.name.startswith("transformer.h.0") else ():
            kept[cost.split] = kept.get(cost.split, 0) + cost.saved_bytes
    seed = 24  # and an offset, of attention's dropout: every rank has them
    assert (kept[SHARED] - seed) * 2 == kept[Split()] - seed
    unit, norms = BATCH * SEQ * HIDDEN * 4, 4 * BATCH * SEQ * 4  # a mean and a deviation a token of each of two norms
    repeated = 4 * unit + norms + seed
    assert kept[Split(tp=2)] == (kept[Split()] - repeated) // 2 + repeated
