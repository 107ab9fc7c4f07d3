"""One rank's part of a model: its collectives against PyTorch's own count, its numbers against the whole."""

from __future__ import annotations

from collections import Counter
from unittest.mock import MagicMock

import pytest

from mpsim.errors import MpsimError
from mpsim.workload import zoo

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from mpsim.workload import tensor_parallel as tp  # noqa: E402
from mpsim.workload.example import Example  # noqa: E402
from mpsim.workload.parallel_styles import parallel_styles  # noqa: E402
from mpsim.workload.split import Split  # noqa: E402
from mpsim.workload.tensor_parallel import RecordedCollective, local_shard  # noqa: E402
from mpsim.workload.vocabulary import sharded_loss  # noqa: E402

BATCH, SEQ, HIDDEN = 2, 16, 32
TEXT = {"n_layer": 2, "hidden": HIDDEN, "n_head": 4, "ffn": 64, "vocab": 48, "seq": SEQ}
SMALL = {
    "mnist-mlp": {"widths": (20, 16, 12, 8, 4)},
    "bert-base": TEXT,
    "gpt2": TEXT,
    "vit-b16": {"n_layer": 2, "hidden": HIDDEN, "n_head": 4, "ffn": 64, "image": 32, "classes": 4},
    "t5-small": {**TEXT, "n_decoder_layer": 2, "head_dim": 8, "target_seq": 12},
    "llama": {**TEXT, "n_kv_head": 2},
    "qwen3": {**TEXT, "n_kv_head": 2, "head_dim": 8},
    "mixtral": {**TEXT, "n_kv_head": 2, "n_expert": 4, "top_k": 2},
    "deepseek": {
        **TEXT, "query_rank": 16, "key_value_rank": 8, "rope_dim": 4, "plain_dim": 8, "value_dim": 8,
        "expert_ffn": 16, "n_expert": 8, "top_k": 2,
    },
}  # fmt: skip


def small(name):
    return zoo.get(name).build(BATCH, **SMALL[name])


def run(example):
    example.loss(example.model(*example.inputs), example.target).backward()


def all_reduce(module, size, phase):
    return RecordedCollective(module=module, kind="all_reduce", bytes=size, phase=phase)


def test_the_collectives_of_mnist_mlp():
    shard = local_shard(zoo.get("mnist-mlp").build(8), 2)
    assert shard.collectives == (
        all_reduce("fc2", 8 * 128 * 4, "forward"),
        all_reduce("fc4", 8 * 10 * 4, "forward"),
        all_reduce("fc3", 8 * 128 * 4, "backward"),
    )
    weights = [tuple(layer.weight.shape) for layer in shard.example.model.children()]
    assert weights == [(128, 784), (128, 128), (32, 128), (10, 32)]


def test_a_transformer_block_makes_two_all_reduces_each_way():
    size = BATCH * SEQ * HIDDEN * 4
    block = "model.layers.1."
    collectives = [c for c in local_shard(small("llama"), 2).collectives if c.module.startswith(block)]
    assert collectives == [
        all_reduce(block + "self_attn.o_proj", size, "forward"),
        all_reduce(block + "mlp.down_proj", size, "forward"),
        all_reduce(block + "mlp.gate_proj", size, "backward"),
        all_reduce(block + "self_attn.q_proj", size, "backward"),
    ]


def test_a_shared_vocabulary_sums_embeddings_and_exchanges_three_numbers_a_token():
    size = BATCH * SEQ * HIDDEN * 4
    outside = [c for c in local_shard(small("llama"), 2).collectives if "layers" not in c.module]
    assert outside == [
        all_reduce("model.embed_tokens", size, "forward"),
        *[all_reduce("lm_head", BATCH * SEQ * 4, "forward")] * 3,
        all_reduce("lm_head", size, "backward"),
    ]


def test_a_mixture_sums_its_experts_and_the_gradients_of_tokens_and_of_their_shares():
    size = BATCH * SEQ * HIDDEN * 4
    block = "model.layers.1."
    collectives = [c for c in local_shard(small("mixtral"), 2).collectives if c.module.startswith(block)]
    assert collectives == [
        all_reduce(block + "self_attn.o_proj", size, "forward"),
        all_reduce(block + "mlp.experts", size, "forward"),
        all_reduce(block + "mlp.experts", BATCH * SEQ * 2 * 4, "backward"),
        all_reduce(block + "mlp.experts", size, "backward"),
        all_reduce(block + "self_attn.q_proj", size, "backward"),
    ]


def test_latent_attention_sums_the_gradients_of_latents_and_of_the_rotated_key():
    block, tokens = "model.layers.0.self_attn.", BATCH * SEQ * 4
    inside = [c for c in local_shard(small("deepseek"), 2).collectives if c.module.startswith(block)]
    assert inside[0] == all_reduce(block + "o_proj", tokens * HIDDEN, "forward")
    assert sorted(inside[1:], key=lambda c: c.bytes) == [
        all_reduce(block + "kv_a_proj_with_mqa", tokens * 4, "backward"),
        all_reduce(block + "kv_b_proj", tokens * 8, "backward"),
        all_reduce(block + "q_b_proj", tokens * 16, "backward"),
    ]


def test_a_norm_of_each_head_sums_the_gradient_of_its_weight():
    found = [c for c in local_shard(small("qwen3"), 2).collectives if c.module.endswith("_norm")]
    names = [f"model.layers.{i}.self_attn.{one}_norm" for i in (1, 0) for one in ("k", "q")]
    assert sorted(found, key=lambda c: c.module) == [all_reduce(name, 8 * 4, "backward") for name in sorted(names)]


@pytest.mark.parametrize(
    ("name", "embedding"), [("gpt2", "transformer.wte"), ("bert-base", "bert.embeddings.word_embeddings")]
)
def test_language_models_share_their_vocabulary(name, embedding):
    shard = local_shard(small(name), 4)
    head = "cls.predictions.decoder" if name == "bert-base" else "lm_head"
    size = BATCH * SEQ * HIDDEN * 4
    assert shard.collectives[0] == all_reduce(embedding, size, "forward")
    assert [c for c in shard.collectives if c.module == head] == [
        *[all_reduce(head, BATCH * SEQ * 4, "forward")] * 3,
        all_reduce(head, size, "backward"),
    ]
    model = shard.example.model
    assert model.get_submodule(head).weight is model.get_submodule(embedding).weight
    assert model.get_submodule(head).weight.shape == (48 // 4, HIDDEN)
    assert shard.notes == ()


@pytest.mark.parametrize("name", ["gpt2", "bert-base", "t5-small", "llama"])
def test_a_vocabulary_that_does_not_divide_is_padded_and_said(name):
    example = zoo.get(name).build(BATCH, **{**SMALL[name], "vocab": 49})
    shard = local_shard(example, 2)
    assert shard.notes == ("vocabulary of 49 tokens padded to 256, a multiple of 128 × 2, as Megatron-LM pads it",)
    tables = [
        module for module in shard.example.model.modules() if 128 in getattr(module, "weight", torch.ones(1)).shape
    ]
    assert len(tables) >= 2
    assert all(module.weight.shape == (128, HIDDEN) for module in tables)
    run(shard.example)
    assert 49 in [parameter.shape[0] for parameter in example.model.parameters()]


def test_ranks_of_experts_sum_to_the_whole():
    example = small("mixtral")
    tokens, chosen, shares = torch.rand(24, HIDDEN), torch.randint(4, (24, 2)), torch.rand(24, 2)
    experts = lambda model: model.model.layers[0].mlp.experts  # noqa: E731
    output, gradient, parts = summed(example, 2, experts, tokens, chosen, shares)
    expected, expected_gradient = whole(experts(example.model), tokens, chosen, shares)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    down = torch.cat([part.down_proj.grad for part in parts], 2)
    torch.testing.assert_close(down, experts(example.model).down_proj.grad)


def test_ranks_that_share_a_vocabulary_make_the_whole_embedding_and_the_whole_logits():
    example = small("t5-small")
    models = [local_shard(example, 4, rank=rank).example.model for rank in range(4)]
    tokens = torch.arange(48)[None]
    assert torch.equal(sum(model.shared(tokens) for model in models), example.model.shared(tokens))
    hidden = torch.rand(1, 3, HIDDEN)
    logits = torch.cat([model.lm_head(hidden) for model in models], -1)
    torch.testing.assert_close(logits, example.model.lm_head(hidden))
    assert all(model.lm_head.weight is model.shared.weight for model in models)


def test_a_shared_vocabulary_leaves_the_loss_of_others_alone():
    """An error inside torch's loss_parallel would leave it enabled."""
    example = small("llama")
    broken = Example(
        model=example.model,
        inputs=example.inputs,
        target=example.target[:1],
        loss=example.loss,
        tensor_parallel=example.tensor_parallel,
    )
    with pytest.raises(MpsimError, match="the loss does not run on the part of the logits"):
        local_shard(broken, 2)
    from torch.distributed.tensor import DTensor

    assert torch.ops.aten._log_softmax.default not in DTensor._op_dispatcher._custom_op_handlers


def smoothed(logits, target):
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=0.1)


def weighted(logits, target):
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), weight=torch.ones(64))


@pytest.mark.parametrize("loss", [smoothed, weighted])
def test_an_own_loss_that_needs_all_logits_says_so_and_runs_where_each_rank_has_them(loss):
    """It fails among the ranks, or alone on a rank's part; the number of heads has nothing to do with it."""
    batch = torch.arange(8)[None]
    for head in ("vocabulary", "colwise_gather_output", "replicate"):
        model = nn.Sequential(nn.Embedding(64, 8), nn.Linear(8, 64))
        styles = {"0": "replicate", "1": head}
        example = Example(model=model, inputs=(batch,), target=batch, loss=loss, tensor_parallel=styles)
        if head == "vocabulary":
            with pytest.raises(
                MpsimError, match=r"as 1 has the style 'vocabulary': .*give 1 the style 'colwise_gather_"
            ) as told:
                run(local_shard(example, 2).example)
            assert "number of heads" not in str(told.value)
        else:
            run(local_shard(example, 2).example)


def test_every_cross_attention_sums_its_gradient_of_the_encoders_output():
    inside = [c for c in local_shard(small("t5-small"), 2).collectives if "EncDecAttention.k" in c.module]
    size = BATCH * SEQ * HIDDEN * 4
    assert inside == [all_reduce(f"decoder.block.{i}.layer.1.EncDecAttention.k", size, "backward") for i in (1, 0)]


@pytest.mark.parametrize("name", SMALL)
def test_collectives_are_those_that_torch_counts(name):
    """CommDebugMode, on the same sharded model."""
    from torch.distributed.tensor.debug import CommDebugMode

    example = small(name)
    with tp._fake_ranks(2, 0, "cpu") as mesh:
        model = tp._alias(example.model)
        tp._parallelize(model, parallel_styles(example, 2), mesh)
        if example.shard:
            example.shard(model, 2)
        counter = CommDebugMode()
        counter.advanced_module_tracker = MagicMock()  # counts alone: the tracker fails on vit and t5
        with sharded_loss(), counter:
            example.loss(model(*example.inputs), example.target).backward()
    expected = {op.__name__: count for op, count in counter.get_comm_counts().items()}
    recorded = Counter(c.kind for c in local_shard(example, 2).collectives)
    assert dict(recorded) == expected


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_local_model_is_plain_and_runs_alone(name, ranks):
    if ranks == 4 and "n_kv_head" in SMALL[name]:
        pytest.skip("two key-value heads")
    example = small(name)
    before = {key: value.clone() for key, value in example.model.state_dict().items()}
    local = local_shard(example, ranks).example
    run(local)
    for module in local.model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    for parameter in local.model.parameters():
        assert type(parameter) is nn.Parameter
        assert type(parameter.data) is torch.Tensor
        assert parameter.grad is not None
    torch.export.export(local.model, local.inputs, strict=False)
    assert all(torch.equal(value, before[key]) for key, value in example.model.state_dict().items())
    assert all(parameter.grad is None for parameter in example.model.parameters())
    storages = {p.untyped_storage().data_ptr() for p in example.model.parameters()}
    assert storages.isdisjoint(p.untyped_storage().data_ptr() for p in local.model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_ranks_share_the_sharded_parameters_and_repeat_the_others(name):
    example = small(name)
    parts = [dict(local_shard(example, 2, rank=rank).example.model.named_parameters()) for rank in range(2)]
    for path, whole in example.model.named_parameters():
        halves = [part[path] for part in parts]
        if "gate_up_proj" in path:  # a rank has its half of both
            gates, ups = zip(*(half.chunk(2, 1) for half in halves), strict=True)
            halves = [torch.cat(gates, 1), torch.cat(ups, 1)]
        if halves[0].shape == whole.shape:
            assert all(torch.equal(half, whole) for half in halves)
        else:
            dim = next(d for d in range(whole.dim()) if halves[0].shape[d] != whole.shape[d])
            assert torch.equal(torch.cat(halves, dim), whole)


def test_tied_weights_stay_tied():
    model = local_shard(small("gpt2"), 2).example.model
    assert model.lm_head.weight is model.transformer.wte.weight


def summed(example, ranks, block, *inputs, **keywords):
    """Run `block` of each rank alone; return the sums of outputs and of input gradients, and the ranks' blocks."""
    outputs, gradients, blocks = [], [], []
    for rank in range(ranks):
        part = block(local_shard(example, ranks, rank=rank).example.model)
        x = inputs[0].clone().requires_grad_()
        y = part(x, *inputs[1:], **keywords)
        y = y[0] if isinstance(y, tuple) else y
        y.square().sum().backward()  # not the whole's loss: only for parameter gradients to exist
        outputs.append(y.detach())
        blocks.append(part)
    total = sum(outputs)
    for part in blocks:
        part.zero_grad()
        x = inputs[0].clone().requires_grad_()
        y = part(x, *inputs[1:], **keywords)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(2 * total)
        gradients.append(x.grad)
    return total, sum(gradients), blocks


def whole(block, *inputs, **keywords):
    x = inputs[0].clone().requires_grad_()
    y = block(x, *inputs[1:], **keywords)
    y = y[0] if isinstance(y, tuple) else y
    y.square().sum().backward()
    return y.detach(), x.grad


def test_ranks_of_a_perceptron_sum_to_the_whole():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False)).double()
    x = torch.rand(3, 6, dtype=torch.double)
    example = Example(model=model, inputs=(x,), tensor_parallel={"0": "colwise", "2": "rowwise"})
    output, gradient, parts = summed(example, 4, lambda m: m, x)
    expected, expected_gradient = whole(model, x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    torch.testing.assert_close(torch.cat([part[0].weight.grad for part in parts]), model[0].weight.grad)
    torch.testing.assert_close(torch.cat([part[2].weight.grad for part in parts], 1), model[2].weight.grad)


def test_ranks_of_llamas_attention_sum_to_the_whole():
    example = small("llama")
    x = torch.rand(BATCH, SEQ, HIDDEN)
    rotary = example.model.model.rotary_emb(x, torch.arange(SEQ)[None])
    attention = lambda model: model.model.layers[0].self_attn  # noqa: E731
    output, gradient, parts = summed(example, 2, attention, x, position_embeddings=rotary)
    expected, expected_gradient = whole(attention(example.model), x, position_embeddings=rotary)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    weights = torch.cat([part.k_proj.weight.grad for part in parts])
    torch.testing.assert_close(weights, attention(example.model).k_proj.weight.grad)


def test_ranks_of_t5s_attention_sum_to_the_whole_with_its_position_bias():
    example = small("t5-small")
    x = torch.rand(BATCH, SEQ, HIDDEN)
    attention = lambda model: model.decoder.block[0].layer[0].SelfAttention  # noqa: E731
    output, gradient, _ = summed(example, 2, attention, x)
    expected, expected_gradient = whole(attention(example.model), x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_ranks_of_gpt2s_attention_sum_to_the_whole_with_its_rows_in_their_order():
    """Each rank's third of the fused projection is query, key and value; the whole has all queries first."""
    example = small("gpt2")
    attention = lambda model: model.transformer.h[0].attn  # noqa: E731
    x = torch.rand(BATCH, SEQ, HIDDEN)
    output, _, parts = summed(example, 2, attention, x)
    reordered = attention(example.model)
    with torch.no_grad():
        for name in ("weight", "bias"):
            thirds = [getattr(part.c_attn, name).chunk(3) for part in parts]
            rows = torch.cat([torch.cat(third) for third in zip(*thirds, strict=True)])
            getattr(reordered.c_attn, name).copy_(rows)
    expected, _ = whole(reordered, x)
    torch.testing.assert_close(output - reordered.c_proj.bias, expected)  # each rank adds the bias


def test_collectives_of_a_large_model_need_no_memory():
    with torch.device("meta"):
        example = zoo.get("llama-7b").build(1, seq=64)
    shard = local_shard(example, 8)
    blocks = [c for c in shard.collectives if c.module.startswith("model.layers.")]
    assert len(blocks) == 32 * 4
    assert {c.bytes for c in blocks} == {64 * 4096 * 4}


def test_fake_models_give_fake_shards():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    real = local_shard(small("llama"), 2)
    with FakeTensorMode():
        example = small("llama")
    shard = local_shard(example, 2)
    assert shard.collectives == real.collectives
    assert all(isinstance(p, FakeTensor) for p in shard.example.model.parameters())


def test_one_rank_is_the_whole():
    example = small("mnist-mlp")
    shard = local_shard(example, 1)
    assert shard.example is example
    assert shard.collectives == ()


def test_a_model_without_a_loss():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    plan = {"0": "colwise", "1": "rowwise"}
    example = Example(model=model, inputs=(torch.rand(3, 4, requires_grad=True),), tensor_parallel=plan)
    assert local_shard(example, 2).collectives == (
        all_reduce("1", 3 * 2 * 4, "forward"),
        all_reduce("0", 3 * 4 * 4, "backward"),
    )


def test_hooks_of_the_model_itself_are_kept():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    plan = {"*": "replicate"}
    local = local_shard(Example(model=model, inputs=(torch.rand(3, 4),), tensor_parallel=plan), 2).example.model
    assert len(local[0]._forward_hooks) == 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


LINEAR = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("model", "plan", "ranks", "message"),
    [
        (nn.Linear(4, 4), {}, 2, "the model (Linear) has no tensor-parallel form: name it, as in tensor_parallel={'':"),
        (LINEAR, {"0": "colwise"}, 2, "1 (Linear) has no tensor-parallel form"),
        (LINEAR, {"*": "columnwise"}, 2, "unknown tensor-parallel style 'columnwise'; did you mean 'colwise'?"),
        (LINEAR, {"*": "replicate", "fc1": "colwise"}, 2, "tensor_parallel names 'fc1', no module with weights"),
        (LINEAR, {"0": "colwise", "1": "rowwise"}, 3, "0 (Linear): 8 features do not divide by 3 tensor-parallel"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), {"0": "colwise"}, 2, "0 (Conv2d) has no tensor-parallel form: colwise"),
        (nn.Embedding(8, 4), {"": "rowwise"}, 2, "the model (Embedding) has no tensor-parallel form: rowwise shards"),
        (Tied(), {"*": "colwise"}, 2, "head shares its weight with embedding: give both"),
        (LINEAR, {"*": "replicate"}, 0, "tensor_parallel is 0, expected 1 or more"),
        (LINEAR, {"*": "colwise"}, 2, "Sequential does not run on one of 2 tensor-parallel ranks"),
    ],
)
def test_what_cannot_be_sharded_is_refused(model, plan, ranks, message):
    x = torch.zeros(2, 4)
    with pytest.raises(MpsimError) as error:
        local_shard(Example(model=model, inputs=(x,), tensor_parallel=plan), ranks)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("name", ["lenet5", "vgg16", "resnet50", "unet"])
def test_convolutions_are_refused_by_name(name):
    with torch.device("meta"):
        example = zoo.get(name).build(1)
    with pytest.raises(MpsimError, match=r"\(Conv2d\) has no tensor-parallel form"):
        local_shard(example, 2)


def test_heads_that_do_not_divide_are_refused_with_both_numbers():
    with torch.device("meta"):
        example = zoo.get("gpt2").build(1, n_layer=1)
    with pytest.raises(MpsimError, match=r"12 attention heads do not divide by 8 .*; the nearest that works is 6"):
        local_shard(example, 8)
    with pytest.raises(MpsimError, match=r"2 key-value heads do not divide by 4 .*; the nearest that works is 2"):
        local_shard(small("llama"), 4)


def test_features_that_do_not_divide_are_refused_with_what_all_of_them_share():
    wide = nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 8), nn.Linear(8, 18), nn.Linear(18, 2))
    plan = {"0": "colwise", "1": "rowwise", "2": "colwise", "3": "rowwise"}
    with pytest.raises(
        MpsimError, match=r"2 \(Linear\): 18 features do not divide by 4 .*; the nearest that works is 3"
    ):
        local_shard(Example(model=wide, inputs=(torch.ones(1, 4),), tensor_parallel=plan), 4)


def test_nothing_global_is_left_behind():
    from torch.distributed.tensor import _random

    before = _random._rng_tracker, torch.get_rng_state()
    local_shard(small("mnist-mlp"), 2)
    assert not torch.distributed.is_initialized()
    assert _random._rng_tracker is before[0]


def test_a_running_process_group_is_not_disturbed():
    with tp._fake_ranks(2, 0, "cpu"):
        with pytest.raises(MpsimError, match="a torch process group is already running"):
            local_shard(small("mnist-mlp"), 2)
        assert torch.distributed.get_world_size() == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    with torch.device("cuda"):
        example = small("llama")
    shard = local_shard(example, 2)
    assert shard.collectives == local_shard(small("llama"), 2).collectives
    assert all(parameter.is_cuda for parameter in shard.example.model.parameters())
    run(shard.example)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ranks"), [("gpt2", 4), ("bert-base", 4), ("vit-b16", 4), ("t5-small", 8)])
def test_full_sizes(name, ranks):
    local = local_shard(zoo.get(name).build(1), ranks).example
    run(local)


def by_phase(shard):
    return {phase: Counter(c.kind for c in shard.collectives if c.phase == phase) for phase in ("forward", "backward")}


@pytest.mark.parametrize(
    ("name", "forward", "backward", "partial"),
    [
        # Of each of two layers: attention and feed-forward gather and scatter; beside them embedding, head and loss.
        (
            "qwen3",
            {"all_gather": 2 * 2 + 1, "reduce_scatter": 2 * 2 + 1, "all_reduce": 3},
            {"reduce_scatter": 2 * 2 + 1, "all_gather": 2 * 2 + 1, "all_reduce": 2 * 2},  # norms of heads are summed
            2 * 2 + 1,
        ),
        # Experts gather tokens, the numbers of their experts and their shares; a router has a part of the sequence.
        (
            "mixtral",
            {"all_gather": 2 * (1 + 3) + 1, "reduce_scatter": 2 * 2 + 1, "all_reduce": 3},
            {"reduce_scatter": 2 * (1 + 2) + 1, "all_gather": 2 * 2 + 1},
            2 * 3 + 1,
        ),
        # Latent attention has the gradients of its input whole; a dense layer, and one of routed and shared experts.
        (
            "deepseek",
            {"all_gather": 2 + 1 + 3 + 1 + 1, "reduce_scatter": 2 + 1 + 1 + 1 + 1, "all_reduce": 3},
            {"reduce_scatter": 1 + 2 + 1 + 1, "all_gather": 2 + 1 + 1 + 1 + 1, "all_reduce": 2 * 3},
            2 * 2 + 1 + 1,
        ),
    ],
)
def test_ranks_that_share_a_sequence_too(name, forward, backward, partial):
    shard = local_shard(small(name), Split(tp=2, sequence=True))
    assert by_phase(shard) == {"forward": forward, "backward": backward}
    assert len(shard.partial) == partial
    run(shard.example)


def test_experts_of_a_shared_sequence_read_the_tokens_of_all_ranks():
    shard = local_shard(small("mixtral"), Split(tp=2, sequence=True))
    experts = [c for c in shard.collectives if c.module == "model.layers.0.mlp.experts" and c.phase == "forward"]
    tokens = BATCH * SEQ
    assert [(c.kind, c.bytes, c.when) for c in experts] == [
        ("all_gather", tokens * 2 * 8, "before"),
        ("all_gather", tokens * HIDDEN * 4, "before"),
        ("all_gather", tokens * 2 * 4, "before"),
        ("reduce_scatter", tokens * HIDDEN * 4, "behind"),
    ]
