"""Tensor-parallel plans that nobody wrote: transformers' own, and pairs of Linear layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from mpsim.errors import MpsimError
from mpsim.workload.trace import trace

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

from mpsim.workload import tensor_parallel as tp  # noqa: E402
from mpsim.workload.example import Example  # noqa: E402
from mpsim.workload.found_plans import planned  # noqa: E402
from mpsim.workload.huggingface import transformers_source  # noqa: E402
from mpsim.workload.tensor_parallel import RecordedCollective, local_shard  # noqa: E402

BATCH, SEQ, HIDDEN, VOCAB = 2, 8, 32, 48
SIZES = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": SEQ, "use_cache": False,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "mixtral": lambda: transformers.MixtralConfig(**SIZES, num_local_experts=4),
    "phi3": lambda: transformers.Phi3Config(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2),
}


class Gated(nn.Module):
    """Two Linear layers side by side feed a third, with a residual around; a head behind a norm stays alone."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.norm(x + self.down(F.silu(self.gate(x)) * self.up(x))))


class Attention(nn.Module):
    """Query, key and value meet in a softmax: no pair."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        return self.o(torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2), -1) @ self.v(x))


class Twice(nn.Module):
    """One Linear called twice is in no pair."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.b(F.relu(self.a(F.relu(self.a(x)))))


def stack(*widths, between=nn.ReLU):
    modules = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), between())]
    return nn.Sequential(*modules[:-1])


def collective(module, kind, size):
    return RecordedCollective(module=module, kind=kind, bytes=size, phase="forward", axis="tp")


def example_of(model, width=8):
    return Example(model=model, inputs=(torch.rand(3, width),))


@pytest.mark.parametrize(
    ("model", "styles"),
    [
        (stack(8, 16, 4), {"0": "colwise", "2": "rowwise"}),
        (stack(8, 16, 8, 4), {"0": "colwise", "2": "rowwise", "*": "replicate"}),
        (stack(8, 16, 8, 4, 2), {"0": "colwise", "2": "rowwise", "4": "colwise", "6": "rowwise"}),
        (stack(8, 16, 8, between=nn.GELU), {"0": "colwise", "2": "rowwise"}),
        (stack(8, 16, 8, between=nn.Identity), {"0": "colwise", "2": "rowwise"}),
        (stack(8, 16, 8, between=lambda: nn.Dropout(0.5)), {"0": "colwise", "2": "rowwise"}),
        (Gated(), {"gate": "colwise", "up": "colwise", "down": "rowwise", "*": "replicate"}),
        (stack(8, 16, 8, between=lambda: nn.LayerNorm(16)), {}),
        (stack(8, 16, 8, between=lambda: nn.Softmax(-1)), {}),
        (Attention(), {}),
        (Twice(), {}),
        (nn.Linear(8, 8), {}),
        (nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 2, 1), nn.Flatten(), *stack(8, 16, 4)), {}),
    ],
)
def test_pairs_of_linear_layers(model, styles):
    example, notes = planned(example_of(model))
    assert example.tensor_parallel == styles
    assert len(notes) == bool(styles)
    if styles:
        assert sum(c.kind == "all_reduce" and c.phase == "forward" for c in local_shard(example, 2).collectives) == (
            list(styles.values()).count("rowwise")
        )


def test_a_pair_is_as_if_written_by_hand():
    model, x = Gated(), torch.rand(3, 8)
    hand = {"gate": "colwise", "up": "colwise", "down": "rowwise", "head": "replicate"}
    found, written = (
        local_shard(example_of(model), 2),
        local_shard(Example(model=model, inputs=(x,), tensor_parallel=hand), 2),
    )
    assert found.collectives == written.collectives
    assert [p.shape for p in found.example.model.parameters()] == [p.shape for p in written.example.model.parameters()]
    assert found.notes == (
        "tensor-parallel plan found: 2 Linear colwise, 1 rowwise (gate, up, down), all else on every rank",
    )
    assert written.notes == ()


def test_looking_for_a_plan_leaves_the_model_alone():
    model = stack(8, 16, 4, between=lambda: nn.Dropout(0.5))
    example, before = example_of(model), {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    planned(example)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_trace_says_which_plan_it_found():
    workload = trace(stack(8, 16, 8), torch.rand(4, 8), tensor=(1, 2), repeats=1, warmup=0)
    assert workload.notes[0].startswith("tensor-parallel plan found: 1 Linear colwise, 1 rowwise (0, 2)")
    assert [layer.shard(2).gradient_bytes for layer in workload.layers] == [8 * 9 * 4, (8 * 8 + 8) * 4]


def test_heads_of_transformers_are_refused_before_features():
    example = transformers_source(CONFIGS["llama"]()).build(1)
    with pytest.raises(MpsimError, match=r"2 key-value heads do not divide by 4 .*; the nearest that works is 2"):
        local_shard(example, 4)


def test_a_style_that_is_not_known_is_named():
    example = transformers_source(CONFIGS["llama"]()).build(1)
    example.model._tp_plan = {"model.layers.*.mlp.up_proj": "diagonal"}
    with pytest.raises(MpsimError, match=r"up_proj: the tensor-parallel plan .* has the style 'diagonal'"):
        local_shard(example, 2)


def test_a_model_that_makes_its_own_loss_cannot_share_logits():
    example = transformers_source(CONFIGS["llama"]()).build(1)
    styles = {**planned(example)[0].tensor_parallel, "lm_head": "vocabulary"}
    with pytest.raises(MpsimError, match=r"lm_head has the style 'vocabulary', and the model makes its own loss"):
        local_shard(replace(example, tensor_parallel=styles), 2)


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_own_plan_runs(name):
    example = transformers_source(CONFIGS[name]()).build(BATCH)
    shard = local_shard(example, 2)
    assert shard.notes[0].startswith(f"tensor-parallel plan: that of transformers for {type(example.model).__name__} (")
    forward = [c for c in shard.collectives if c.phase == "forward"]
    size = BATCH * SEQ * HIDDEN * 4
    assert forward[0] == collective("model.embed_tokens", "all_reduce", size)
    logits = BATCH * SEQ * VOCAB * 4
    assert forward[-1] == collective("lm_head", "all_gather", logits)
    assert Counter(c.kind for c in forward) == {
        "all_reduce": 1 + 2 * 2,
        "all_gather": 1 + 4 * (name == "phi3"),  # its fused projections are gathered
    }
    local = shard.example
    local.model(**local.keywords).loss.backward()
    assert local.model.lm_head.weight.shape == (VOCAB // 2, HIDDEN)


@pytest.mark.filterwarnings("ignore:.*backward hook")
@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral"])
def test_collectives_are_those_that_transformers_itself_makes(name):
    """Its own application of its plan; each projection there sums its own gradient of an input that they share."""
    from torch.distributed.tensor.debug import CommDebugMode
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    example = transformers_source(CONFIGS[name]()).build(BATCH)
    recorded = Counter(c.kind for c in local_shard(example, 2).collectives)
    with tp._fake_ranks(2, 0, "cpu") as mesh:
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
        apply_tensor_parallelism(model, mesh, model._expand_parallel_plan(dict(model.tp_plan)))
        counter = CommDebugMode()
        with counter:
            model(**example.keywords).loss.backward()
    made: Counter[str] = Counter()
    for operator, count in counter.get_comm_counts().items():
        made["all_gather" if "all_gather" in str(operator) else "all_reduce"] += count
    own = 2 * (2 + (name != "mixtral"))  # key and value, and up beside gate: two layers
    assert made["all_gather"] == recorded["all_gather"] == 1
    assert made["all_reduce"] == recorded["all_reduce"] + own
