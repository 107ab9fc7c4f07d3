"""Models in the shapes with which people had trouble: each stands for a kind, and its trace was once untrue.

A factory is ``name(batch) -> (model, inputs[, target, loss])``. `NUMBERED` holds them by number and name, each with the
least number of layers that its trace must have, and how names of layers begin that must be among them.
"""

import types

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from .experts import Routed, mlp
from .plain import Case

NUMBERED = {}


def numbered(number, least, *layers):
    """Register a factory under its number."""

    def add(function):
        NUMBERED[f"{number} {function.__name__}"] = Case(function, least, layers)
        return function

    return add


def words(batch, length=16, most=100):
    """Token ids."""
    return torch.randint(3, most, (batch, length))


# What an output may be: whatever forward returns, its tensors are found (1)


@numbered("01", 4)
def decoder_with_its_cache(batch):
    """A decoder as from_config makes it: its output also holds the cache of keys and values. Traced like any other."""
    import transformers

    config = transformers.PhiConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=500,
        max_position_embeddings=64,
    )
    ids = words(batch, 32, 500)
    return transformers.AutoModelForCausalLM.from_config(config), {"input_ids": ids, "labels": ids.clone()}


class _Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return types.SimpleNamespace(loss=self.two(hidden).mean(), hidden=hidden)


@numbered("01b", 2)
def namespace_as_output(batch):
    """An output that is an object with attributes: its `loss` is the loss."""
    return _Plain(), torch.randn(batch, 16)


# Recompute: what is kept is what PyTorch keeps, the recompute's time is in the step, all gradients are there (3, 5)


class Block(nn.Module):
    """Attention, then an MLP, each on a normed input and added to it."""

    def __init__(self, width=128):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        h = self.first(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.second(x))))


class Decoder(nn.Module):
    """Embedding, blocks, head; `call` says how a block is called."""

    def __init__(self, call=lambda block, x: block(x), width=128, depth=4):
        super().__init__()
        self.embed, self.head = nn.Embedding(500, width), nn.Linear(width, 500)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.call = call

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = self.call(block, x)
        return self.head(x)


@numbered("03", 6)
def checkpoint_reentrant(batch):
    """Every block under checkpoint(use_reentrant=True): six layers, and the gradients of all."""
    return Decoder(lambda block, x: checkpoint(block, x, use_reentrant=True)), words(batch, 64, 500)


@numbered("05", 6)
def checkpoint_not_reentrant(batch):
    """The same with use_reentrant=False: a block keeps its input alone, and its forward runs twice a step."""
    return Decoder(lambda block, x: checkpoint(block, x, use_reentrant=False)), words(batch, 64, 500)


# Mixed precision by autocast inside the model: layers as without it, times and bytes as they are (7)


class _Autocast(nn.Module):
    def __init__(self, outside):
        super().__init__()
        self.body = Decoder(depth=2)
        self.last = nn.Linear(500, 8) if outside else nn.Identity()

    def forward(self, ids):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.body(ids)
        return self.last(x.float())


@numbered("07", 4)
def autocast_over_all(batch):
    """All layers in one autocast region: they are layers still."""
    return _Autocast(False), words(batch, 32, 500)


@numbered("07b", 5)
def autocast_over_most(batch):
    """One Linear stands outside of the region: it is not the only layer."""
    return _Autocast(True), words(batch, 32, 500)


# Own backward passes: the gradients are those that the function's backward gives, what it keeps is what counts (9, 11)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.where(x > 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class _StraightThrough(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x):
        return self.three(_Sign.apply(self.two(torch.relu(self.one(x)))))


@numbered("09", 3)
def straight_through(batch):
    """The sign of a tensor, whose own backward lets the gradient through: all six parameters get one."""
    return _StraightThrough(), torch.randn(batch, 64)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def inner(x):
        return torch.tanh(0.7978845608 * (x + 0.044715 * x**3))

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 * x * (1 + _Gelu.inner(x))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        t = _Gelu.inner(x)
        return gradient * 0.5 * (1 + t + x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x))


class _Saving(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 128) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = _Gelu.apply(layer(x))
        return x


@numbered("11", 3)
def function_that_keeps_less(batch):
    """A GELU that keeps its input and recomputes the rest: the memory is that."""
    return _Saving(), torch.randn(batch, 64, 128)


# Values that decide: traced where they only check or mask; else the line of the model's file is named (13, 15, 47, 55)


class _Checked(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.embed, self.head, self.how = nn.Embedding(50, 32), nn.Linear(32, 4), how

    def forward(self, ids):
        if self.how == "assert":
            assert (ids < 50).all(), "an id is too large"
        elif ids.max() >= 50:
            raise ValueError("an id is too large")
        return self.head(self.embed(ids))


@numbered("13", 2)
def value_check_that_raises(batch):
    """`if ids.max() >= n: raise`: traced (the check held for this batch), or the line named."""
    return _Checked("raise"), words(batch, 6, 50)


@numbered("13b", 2)
def value_check_by_assert(batch):
    """`assert (ids < n).all()`: likewise."""
    return _Checked("assert"), words(batch, 6, 50)


class Translator(nn.Module):
    def __init__(self, hint=False, mask=True):
        super().__init__()
        self.source, self.target, self.head = nn.Embedding(50, 32), nn.Embedding(50, 32), nn.Linear(32, 50)
        self.body = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.how = {"tgt_is_causal": True} if hint else {}
        self.mask = mask

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1]) if self.mask else None
        return self.head(self.body(self.source(source), self.target(target), tgt_mask=mask, **self.how))


@numbered("15", 4)
def decoder_with_its_mask(batch):
    """nn.Transformer with a causal target mask, as its documentation has it: traced, or told that is_causal helps."""
    return Translator(), (words(batch, 10, 50), words(batch, 9, 50))


class _PackedLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x, lengths):
        rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.rnn(rows)[0], batch_first=True)[0])


@numbered("47", 2)
def packed_lstm(batch):
    """Rows of different lengths packed for an LSTM: traced, or the line named."""
    return _PackedLstm(), (torch.randn(batch, 6, 8), torch.full((batch,), 6))


class _Warmup(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.step += 1
        return self.two(torch.relu(self.one(x))) * min(1.0, float(self.step) / 100)


@numbered("55", 2)
def step_counter_in_a_buffer(batch):
    """A factor that grows with a step counter: traced, or the line named; the counter is as before afterwards."""
    return _Warmup(), torch.randn(batch, 16)


# Parameters that no forward uses: they are memory, and DDP may reduce them; at least a word of it (17)


class _Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.spare = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(1000, 1000)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))


@numbered("17", 2)
def spare_module(batch):
    """A module that forward never calls: its 4 MB are counted, or it is told that they are not."""
    return _Spare(), torch.randn(batch, 16)


# As many tensors as samples: traced at the one size asked for, or that said (19)


class _Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, images):
        rows = [self.convolution(image[None]).mean((2, 3)) for image in images]
        scores = self.head(torch.cat(rows))
        return {"box": scores.abs().mean(), "class": scores.pow(2).mean()}


@numbered("19", 2)
def images_as_a_list(batch):
    """A list of images of unlike sizes, one convolution for each: no other size than the asked one is tried."""
    images = [torch.randn(3, 16 + i, 16) for i in range(batch)]
    return _Images(), (images,), None, lambda out, _: sum(out.values())


# State that forward moves: as before afterwards, and moved once by one forward (21)


class _Contrast(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = mlp(32, 64, 16), mlp(32, 64, 16).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(16, 64), dim=0))

    def forward(self, x, y):
        query = F.normalize(self.query(x), dim=1)
        with torch.no_grad():
            for mine, other in zip(self.query.parameters(), self.key.parameters(), strict=True):
                other.lerp_(mine, 0.01)
            key = F.normalize(self.key(y), dim=1)
        scores = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.clone()], 1) / 0.1
        with torch.no_grad():
            self.queue.copy_(torch.cat([key.T, self.queue[:, : -len(key)]], 1))
        return F.cross_entropy(scores, torch.zeros(len(query), dtype=torch.long, device=query.device))


@numbered("21", 2)
def key_encoder_that_follows(batch):
    """A second encoder follows the first inside forward, and a queue turns: the model is left as it was."""
    return _Contrast(), (torch.randn(batch, 32), torch.randn(batch, 32))


# What the optimizer cannot do: the cause, and which other optimizer can (23)


@numbered("23", 3)
def sparse_gradients(batch):
    """A table with sparse=True: refused with the cause (Adam takes none) and the remedy (another optimizer)."""
    model = nn.Sequential(nn.Embedding(1000, 16, sparse=True), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    return model, words(batch, 4, 1000)


# Types of numbers: all that torch has (25)


class _Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Linear(16, n, dtype=torch.cdouble) for n in (16, 4))

    def forward(self, x):
        return self.two(self.one(x)).abs()


@numbered("25", 2)
def complex128_layers(batch):
    """Linears in complex128."""
    return _Complex(), torch.randn(batch, 16, dtype=torch.cdouble)


# Ways to call a layer (27)


class _Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return torch.vmap(lambda row: self.two(torch.relu(self.one(row))))(x)


@numbered("27", 2)
def layers_under_vmap(batch):
    """Two Linears called under torch.vmap: traced, or vmap named."""
    return _Mapped(), torch.randn(batch, 16)


# Regions of their own mode: modules inside are layers that a plan can place (29)


class _Distil(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher, self.student = Decoder(), Decoder(width=64, depth=2)
        self.teacher.requires_grad_(False)

    def forward(self, ids):
        with torch.no_grad():
            wanted = self.teacher(ids).softmax(-1)
        return F.kl_div(self.student(ids).log_softmax(-1), wanted, reduction="batchmean")


@numbered("29", 8, "teacher", "student")
def frozen_teacher(batch):
    """A teacher under no_grad, most of the work: its blocks are layers too."""
    return _Distil(), words(batch, 32, 500)


class _Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.router, self.two = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        x = torch.relu(self.one(x))
        with torch.autocast("cpu", enabled=False):
            x = torch.relu(self.router(x.float()))
        return self.head(torch.relu(self.two(x)))


@numbered("29b", 4, "router")
def float32_region(batch):
    """A router kept out of autocast: a layer of its own."""
    return _Router(), torch.randn(batch, 64)


# In place through a view, across what would be a cut: traced with the layers kept together, or the line named (45)


class _Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        x = self.one(x)
        x += self.two(torch.tanh(x))
        half = x[:, :8]
        half.mul_(2)
        return self.three(x)


@numbered("45", 1)
def scaled_through_a_view(batch):
    """A sum and a scaling in place: the layer and the line are named, if it cannot be."""
    return _Viewed(), torch.randn(batch, 16)


# The mask that is trained with is the mask that is measured (49)


@numbered("49", 3)
def packed_rows(batch):
    """Two documents in a row, told by position ids that begin again: attention does not reach across."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=500,
        max_position_embeddings=64,
        use_cache=False,
    )
    ids = words(batch, 32, 500)
    positions = torch.arange(16).repeat(2).expand(batch, -1)
    model = transformers.LlamaForCausalLM(config)
    return model, {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}


# A gradient of a gradient: traced, or that said (53)


class _Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 32), nn.Linear(32, 1)

    def forward(self, position):
        position = position.requires_grad_()
        energy = self.two(torch.tanh(self.one(position))).sum()
        (force,) = torch.autograd.grad(energy, position, create_graph=True)
        return energy, force


@numbered("53", 1)
def forces_from_an_energy(batch):
    """Forces are minus the gradient of an energy, and are trained on."""

    def loss(out, target):
        return 0.1 * out[0] + F.mse_loss(-out[1], target)

    return _Field(), torch.randn(batch, 3), torch.randn(batch, 3), loss


# Routes that the values choose, at one micro-batch size (57)


@numbered("57", 4)
def experts_by_index(batch):
    """Each expert gets the rows routed to it, as many as there are: traced at one size as at two."""
    return Routed(False), words(batch)


# An input taken apart before any layer (59)


class _Fields(nn.Module):
    def __init__(self):
        super().__init__()
        self.fields, self.head = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(sum(layer(field) for layer, field in zip(self.fields, x.unbind(1), strict=True)))


@numbered("59", 4)
def input_unbound(batch):
    """Each of three layers reads a part of the input, which `unbind` makes."""
    return _Fields(), torch.randn(batch, 3, 8)
