"""What would run on a rank's part of a sequence alone, and is no rank's work, is refused and named."""

from __future__ import annotations

import pytest

from mpsim.errors import MpsimError
from mpsim.workload.split import split_text

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

from mpsim.workload.example import Example  # noqa: E402
from mpsim.workload.tensor_parallel import local_shard  # noqa: E402

BATCH, SEQ, WIDTH = 2, 24, 16
SHARED = {"*.[qkv]": "colwise", "*.o": "rowwise", "*up": "colwise", "*down": "rowwise"}


class Attention(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.attend = attend

    def forward(self, x):
        q, k, v = (one(x).unflatten(-1, (-1, 4)).transpose(1, 2) for one in (self.q, self.k, self.v))
        return self.o(self.attend(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.norm, self.mixer, self.other_norm = nn.LayerNorm(WIDTH), mixer, nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x):
        mixed = self.mixer(self.norm(x))
        x = x + (mixed[0] if isinstance(mixed, tuple) else mixed)
        return x + self.down(F.relu(self.up(self.other_norm(x))))


class Conv(nn.Module):
    def __init__(self, size, stride=1):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, size, stride, padding=size // 2)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


def written_out(q, k, v):
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def encoder(batch_first):
    return nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, batch_first=batch_first)


def shard(split, *modules, plan=None, inputs=None):
    inputs = (torch.rand(BATCH, SEQ, WIDTH),) if inputs is None else inputs
    model = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    return local_shard(Example(model=model, inputs=inputs, tensor_parallel=plan or {}), split_text(split))


@pytest.mark.parametrize("attend", [fused, written_out])
def test_a_plan_that_was_found_for_feed_forwards_leaves_no_attention_to_parts(attend):
    """Without sequences shared every rank computes the whole attention; on parts it would be another one."""
    assert shard("tp=2", Block(Attention(attend))).collectives
    with pytest.raises(MpsimError, match=r"mixer: an attention over 12 tokens, .*tp=2 sequence exchanges nothing") as e:
        shard("tp=2,sequence", Block(Attention(attend)))
    assert "give its Linears 'colwise' and 'rowwise' in tensor_parallel, or leave sequence out" in str(e.value)


@pytest.mark.parametrize("attend", [fused, written_out])
def test_an_attention_whose_linears_are_shared_is_on_whole_sequences(attend):
    found = shard("tp=2,sequence", Block(Attention(attend)), plan=SHARED).collectives
    assert ("mixer", "all_gather") in [(one.module, one.kind) for one in found]


def test_an_attention_that_every_rank_has_is_refused_where_sequences_are_shared():
    with pytest.raises(MpsimError, match="self_attn: an attention over 12 tokens"):
        shard("tp=2,sequence", encoder(True), plan={"linear1": "colwise", "linear2": "rowwise", "*": "replicate"})


@pytest.mark.parametrize("context", ["all-gather", "ring", "ulysses"])
def test_an_attention_written_out_beside_others_is_refused(context):
    model = nn.Sequential(Block(Attention(fused)), Block(Attention(written_out)))
    example = Example(model=model, inputs=(torch.rand(BATCH, SEQ, WIDTH),))
    with pytest.raises(MpsimError, match=r"1.mixer: an attention over 12 tokens, .*cp=2 exchanges nothing for it: let"):
        local_shard(example, split_text("cp=2"), context=context)


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True), "0.mixer: a recurrent layer over 12 tokens"),
        (lambda: Conv(3), "0.mixer.conv: a convolution over 12 tokens"),
    ],
)
def test_what_reads_tokens_beside_a_token_is_refused(mixer, message):
    with pytest.raises(MpsimError, match=message):
        shard("cp=2", Block(mixer()), Block(Attention(fused)))
    with pytest.raises(MpsimError, match=message):
        shard("tp=2,sequence", Block(mixer()), Block(Attention(fused)), plan={**SHARED, "*": "replicate"})


def test_what_reads_a_token_alone_is_a_ranks_work():
    assert shard("cp=2", Block(Conv(1)), Block(Attention(fused))).collectives


class Beside(nn.Module):
    """Features of an image that are no sequence of the model's, beside tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.text, self.image = nn.Embedding(8, WIDTH), encoder(True), encoder(True)

    def forward(self, tokens, image):
        return self.text(self.embed(tokens)).mean() + self.image(image).mean()


class Token(nn.Module):
    """A class token before the sequence: every rank would have one of its own."""

    def __init__(self):
        super().__init__()
        self.own, self.encoder = nn.Parameter(torch.zeros(1, 1, WIDTH)), encoder(True)

    def forward(self, x):
        return self.encoder(torch.cat([self.own.expand(len(x), 1, WIDTH), x], 1))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (lambda: encoder(False), (torch.rand(SEQ, 4, WIDTH),), r"attention reads 24 tokens, .* is 2: "),
        (
            Beside,
            (torch.zeros(BATCH, SEQ, dtype=torch.long), torch.rand(BATCH, 10, WIDTH)),
            r"reads 10 tokens, .* 12: ",
        ),
        (Token, (torch.rand(BATCH, SEQ, WIDTH),), r"attention reads 13 tokens, .* is 12: "),
    ],
)
def test_attention_of_other_than_parts_is_not_shared(model, inputs, message):
    with pytest.raises(MpsimError, match=message) as error:
        shard("cp=2", model(), inputs=inputs)
    assert "\n" not in str(error.value)


def test_attention_across_two_sequences_is_shared():
    model = nn.Transformer(WIDTH, 2, 1, 1, 32, 0.0, batch_first=True)
    inputs = (torch.rand(BATCH, SEQ, WIDTH), torch.rand(BATCH, SEQ, WIDTH))
    assert {one.axis for one in shard("cp=2", model, inputs=inputs).collectives} == {"cp"}
