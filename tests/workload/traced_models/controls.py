"""Models of ordinary training in many shapes: their traces are true, and stay so.

A factory is ``name(batch) -> (model, inputs[, target, loss])``.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .experts import Routed, mlp
from .numbered import Decoder, Translator, words
from .plain import Case

CONTROLS = {}


def control(function):
    """Register a factory."""
    CONTROLS[function.__name__] = Case(function)
    return function


# What crosses a cut: every tensor that a later layer reads, whatever it is


class _Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.one, self.two, self.head = nn.Embedding(100, 32), *(nn.Linear(n, 32) for n in (32, 32, 64))

    def forward(self, ids):
        start = self.embed(ids)
        return self.head(torch.cat([self.two(torch.relu(self.one(start))), start], -1))


@control
def skip_over_layers(batch):
    """The embedding's output is read again by the last layer."""
    return _Skip(), words(batch)


class _Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.ones(64))
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x) + self.shift
        return x


@control
def one_buffer_for_all_layers(batch):
    """A buffer of the root that each layer reads."""
    return _Shifted(), torch.randn(batch, 64)


class _MaskedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x, mask, position):
        return torch.where(mask[..., None], self.linear(x) + position, x), mask, position


class _Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.position = nn.Embedding(50, 32), nn.Embedding(16, 32)
        self.blocks = nn.ModuleList(_MaskedBlock() for _ in range(4))

    def forward(self, ids):
        state = self.embed(ids), ids > 9, self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            state = block(*state)
        return state[0]


@control
def bool_mask_through_all(batch):
    """A bool mask and positions go through every block."""
    return _Masked(), words(batch, 16, 50)


class _Loose(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.linear, self.last = nn.Linear(16, 16), last

    def forward(self, x, extra=None, flag=True):
        y = self.linear(x)
        return {"x": (y, [2 * y, None]), "extra": y.mean() if self.last else None, "flag": flag, "what": "text"}


class _Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(_Loose(i == 2) for i in range(3))

    def forward(self, x):
        extra, flag = None, True
        for part in self.parts:
            out = part(x, extra, flag)
            x, extra, flag = out["x"][1][0], out["extra"], out["flag"]
        return {"loss": x.mean() + extra, "hidden": None, "last": (x, None)}


@control
def none_and_dicts_between_modules(batch):
    """None, text, flags, tuples and dicts among what modules return."""
    return _Nested(), torch.randn(batch, 16)


class _Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        first = self.one(x)
        return self.three(self.two(first.detach())) + 0 * first.mean()


@control
def no_gradient_across(batch):
    """A later layer reads a tensor without a gradient."""
    return _Detached(), torch.randn(batch, 16)


class _Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(32, 32).bfloat16(), nn.LayerNorm(32), nn.Linear(32, 4).bfloat16()
        self.register_buffer("table", torch.zeros(1000, dtype=torch.int8))

    def forward(self, x):
        x = self.norm(self.one(x.bfloat16()).float())
        return self.two(x.bfloat16()).float() + self.table.sum()


@control
def mixed_types(batch):
    """bfloat16 layers, a float32 norm, an int8 table."""
    return _Mixed(), torch.randn(batch, 32)


class _Float8(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.two(self.one(x).to(torch.float8_e4m3fn).float())


@control
def float8_across(batch):
    """A tensor of one byte an element between two layers."""
    return _Float8(), torch.randn(batch, 32)


@control
def bfloat16_layers(batch):
    """All in bfloat16."""
    return mlp(64, 64, 64, 8).bfloat16(), torch.randn(batch, 64, dtype=torch.bfloat16)


@control
def float64_layers(batch):
    """All in float64."""
    return mlp(32, 32, 4).double(), torch.randn(batch, 32, dtype=torch.float64)


class _Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 8, dtype=torch.cfloat) / 8)
        self.beside = nn.Conv1d(8, 8, 1)

    def forward(self, x):
        spectrum = torch.fft.rfft(x)
        low = torch.einsum("bim,iom->bom", spectrum[..., :8], self.weight)
        filled = F.pad(low, (0, spectrum.shape[-1] - 8))
        return F.gelu(torch.fft.irfft(filled, n=x.shape[-1]) + self.beside(x))


@control
def fourier_layers(batch):
    """Complex weights on a spectrum."""
    model = nn.Sequential(nn.Conv1d(1, 8, 1), _Spectral(), _Spectral(), nn.Conv1d(8, 1, 1))
    return model, torch.randn(batch, 1, 64)


# Weights: shared, reused, reparametrized, bare, made by another layer


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.middle, self.head = nn.Embedding(200, 32), mlp(32, 32, 32), nn.Linear(32, 200, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.middle(self.embed(ids)))


@control
def tied_ends(batch):
    """First and last layer share a weight: one parameter, and an all-reduce between the stages."""
    return _Tied(), words(batch, 8, 200)


class _Again(nn.Module):
    def __init__(self):
        super().__init__()
        self.start, self.shared, self.head = nn.Linear(8, 32), mlp(32, 64, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.start(x)
        for _ in range(4):
            x = x + self.shared(x)
        return self.head(x)


@control
def one_block_four_times(batch):
    """One block is called four times."""
    return _Again(), torch.randn(batch, 8)


@control
def two_towers_of_one_weight(batch):
    """One tower on two inputs."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = mlp(16, 32, 8)

        def forward(self, x, y):
            return F.cosine_similarity(self.tower(x), self.tower(y))

    return Pair(), (torch.randn(batch, 16), torch.randn(batch, 16))


@control
def weight_norm(batch):
    """Weights as parametrizations."""
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(
        norm(nn.Conv1d(4, 8, 3)), nn.ReLU(), norm(nn.Conv1d(8, 8, 3)), nn.Flatten(), nn.Linear(224, 4)
    )
    return model, torch.randn(batch, 4, 32)


@control
def weight_norm_by_hooks(batch):
    """The older weight norm, a hook before forward."""
    model = mlp(16, 16, 16, 4)
    for i in (0, 2):
        nn.utils.weight_norm(model[i])
    return model, torch.randn(batch, 16)


@control
def spectral_norm(batch):
    """A power iteration in buffers, a step of it a forward."""
    model = mlp(16, 16, 16, 4)
    for i in (0, 2):
        nn.utils.parametrizations.spectral_norm(model[i])
    return model, torch.randn(batch, 16)


class _Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(16, 32)), nn.Parameter(torch.randn(32, 4))

    def forward(self, x):
        return torch.relu(x @ self.one) @ self.two


@control
def parameters_without_modules(batch):
    """Matrices of the root, no module."""
    return _Bare(), torch.randn(batch, 16)


class _Matrices(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrices = nn.ParameterList(nn.Parameter(torch.randn(16, 16)) for _ in range(4))

    def forward(self, x):
        for matrix in self.matrices:
            x = torch.tanh(x @ matrix)
        return x


@control
def parameter_list(batch):
    """A ParameterList."""
    return _Matrices(), torch.randn(batch, 16)


class _ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 17, 32))
        self.scale, self.head = nn.Parameter(torch.ones(())), nn.Linear(32, 4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(3))

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0]) * self.scale


@control
def class_token_and_scale(batch):
    """A token, positions and a scalar as parameters of the root."""
    return _ClassToken(), torch.randn(batch, 16, 32)


class _Hyper(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker, self.out = nn.Linear(4, 128), nn.Linear(8, 2)

    def forward(self, x, z):
        return self.out(torch.relu((x[:, None] @ self.maker(z).view(-1, 16, 8))[:, 0]))


@control
def weights_made_by_a_layer(batch):
    """A layer makes the weights of the next, for each sample."""
    return _Hyper(), (torch.randn(batch, 16), torch.randn(batch, 4))


class _Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))

    def forward(self, x):
        call = torch.func.functional_call
        return torch.stack([call(one, dict(one.named_parameters()), (x,)) for one in self.members]).mean(0)


@control
def ensemble_by_functional_call(batch):
    """Modules called with their parameters as arguments."""
    return _Ensemble(), torch.randn(batch, 16)


# Frozen parts: no gradient, no traffic, no backward below the first trained layer


class _Adapter(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.down, self.up = nn.Linear(width, 4, bias=False), nn.Linear(4, width, bias=False)

    def forward(self, x):
        return torch.relu(self.base(x) + self.up(self.down(x)))


def _adapted(first):
    model = nn.Sequential(nn.Embedding(100, 64), *(_Adapter() for _ in range(4)), nn.Linear(64, 100))
    for i, layer in enumerate(model):
        if i < 1 + first or i == 5:
            layer.requires_grad_(False)
    return model


@control
def low_rank_adapters(batch):
    """Adapters beside frozen layers."""
    return _adapted(0), words(batch)


@control
def adapters_in_the_upper_half(batch):
    """Adapters in the last two blocks: nothing goes back into the first two."""
    return _adapted(2), words(batch)


class _FrozenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8).requires_grad_(False),
            nn.Linear(8, 4),
        )

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.convolution(x))).mean((2, 3)))


@control
def frozen_batch_norm(batch):
    """A batch norm that stays in evaluation mode."""
    return _FrozenNorm(), torch.randn(batch, 3, 16, 16)


class _StopGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.predict = mlp(16, 32, 8), nn.Linear(8, 8)

    def forward(self, x, y):
        a, b = self.encoder(x), self.encoder(y)
        return -sum(F.cosine_similarity(self.predict(p), q.detach()).mean() for p, q in ((a, b), (b, a)))


@control
def stopped_targets(batch):
    """Each view predicts the other, whose gradient is stopped."""
    return _StopGradient(), (torch.randn(batch, 16), torch.randn(batch, 16))


# Sparse routing and tables


@control
def experts_on_all_rows(batch):
    """Each expert gets all rows, weighted."""
    return Routed(True), words(batch)


class _Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(1000, 16, mode="sum") for _ in range(4))
        self.bottom, self.top = mlp(13, 32, 16), mlp(26, 32, 1)

    def forward(self, dense, index, offset):
        first = self.bottom(dense)
        rows = torch.stack([first, *(table(index[i], offset[i]) for i, table in enumerate(self.tables))], 1)
        i, j = torch.tril_indices(5, 5, -1)
        return self.top(torch.cat([first, (rows @ rows.mT)[:, i, j]], 1))


@control
def recommender(batch):
    """Bags of embeddings, their products, an MLP."""
    index = torch.randint(0, 1000, (4, 3 * batch))
    inputs = torch.rand(batch, 13), index, (3 * torch.arange(batch)).repeat(4, 1)
    return _Recommender(), inputs, torch.rand(batch, 1), F.binary_cross_entropy_with_logits


# Recurrent networks and graphs


class _Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed, self.head = nn.Embedding(100, 32), nn.Linear(32, 100)
        self.rnn = kind(32, 32, num_layers=2, batch_first=True)

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0])


@control
def lstm(batch):
    """Two layers of LSTM between an embedding and a head."""
    return _Recurrent(nn.LSTM), words(batch, 12)


@control
def gru(batch):
    """The same with GRU."""
    return _Recurrent(nn.GRU), words(batch, 12)


@control
def lstm_alone(batch):
    """A model that is one LSTM."""
    return nn.LSTM(16, 32, num_layers=2, batch_first=True), torch.randn(batch, 12, 16)


class _Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(8, 16), nn.Linear(16, 2)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 16)
        for i in range(x.shape[1]):
            h, c = self.cell(x[:, i], (h, c))
        return self.head(h)


@control
def lstm_cell_in_a_loop(batch):
    """A cell called once a time step."""
    return _Cell(), torch.randn(batch, 6, 8)


class _Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)])

    def forward(self, x, edge):
        for layer in self.layers:
            h = layer(x)
            x = torch.relu(torch.zeros_like(h).index_add(0, edge[1], h[edge[0]]))
        return x


@control
def graph_by_edges(batch):
    """Nodes and edges, several for each sample."""
    return _Graph(), (torch.randn(10 * batch, 8), torch.randint(0, 10 * batch, (2, 40 * batch)))


class _Adjacent(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, near, x):
        return self.two(torch.relu(near @ self.one(x)))


@control
def one_graph_for_all_samples(batch):
    """The first input has no batch."""
    return _Adjacent(), (torch.rand(20, 20), torch.randn(batch, 20, 8))


# Inputs, targets, losses


class _Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.kind, self.place = mlp(16, 32, 32), nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x):
        x = self.trunk(x)
        return {"kind": self.kind(x), "place": self.place(x)}


@control
def two_losses(batch):
    """Two heads, a target that is a dict, a weighted sum of two losses."""

    def loss(out, target):
        return F.cross_entropy(out["kind"], target["kind"]) + 0.5 * F.mse_loss(out["place"], target["place"])

    return (
        _Heads(),
        torch.randn(batch, 16),
        {"kind": torch.randint(0, 4, (batch,)), "place": torch.randn(batch, 1)},
        loss,
    )


class _Regular(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.two(torch.relu(self.one(x))), self.one.weight.pow(2).sum()


@control
def weight_in_the_loss(batch):
    """A regulariser on the first layer's weight."""
    target = torch.randn(batch, 4)
    return _Regular(), torch.randn(batch, 16), target, lambda out, t: F.mse_loss(out[0], t) + 1e-3 * out[1]


@control
def parameter_of_the_loss_alone(batch):
    """Centres that only the loss reads."""
    model = mlp(16, 16, 8)
    model.centres = nn.Parameter(torch.randn(4, 8))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    return (
        model,
        torch.randn(batch, 16),
        torch.randint(0, 4, (batch,)),
        lambda out, t: (out - model.centres[t]).pow(2).mean(),
    )


class _Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, *, x, scale=1.0, mode="relu", flip=False):
        x = getattr(torch, mode)(self.one(x)) * scale
        return self.two(x.flip(-1) if flip else x)


@control
def keywords_only(batch):
    """Keyword arguments, some of them numbers, text and flags."""
    return _Keywords(), {"x": torch.randn(batch, 16), "scale": 2.0, "mode": "tanh", "flip": True}


class _Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.position, self.one, self.two = nn.Embedding(16, 32), nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, position, x):
        return self.two(torch.relu(self.one(x) + self.position(position)))


@control
def positions_before_samples(batch):
    """The first argument has no batch, the second has."""
    return _Positions(), (torch.arange(16), torch.randn(batch, 16, 8))


class _Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(16, 32), nn.Linear(32, 4), nn.Linear(32, 4)
        self.decode = mlp(4, 32, 16)

    def forward(self, x):
        h = torch.relu(self.encode(x))
        mean, spread = self.mean(h), self.spread(h)
        return self.decode(mean + torch.randn_like(mean) * spread.exp()), mean, spread


@control
def variational_autoencoder(batch):
    """Random numbers in forward, three outputs, the input as target."""

    def loss(out, target):
        return F.mse_loss(out[0], target) + 0.01 * (out[1].pow(2) + out[2].exp().pow(2) - 2 * out[2]).mean()

    x = torch.randn(batch, 16)
    return _Variational(), x, x, loss


class _Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.two(self.one(x.reshape(-1, 16))).reshape(*x.shape[:2], 4)


@control
def tokens_in_one_row(batch):
    """Batch and length are made one dimension between the layers."""
    return _Flat(), torch.randn(batch, 7, 16)


class _Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.one(x).unflatten(1, (-1, 4)).unflatten(3, (-1, 4))
        return self.three(self.two(x.transpose(2, 3).reshape(-1, 16, 8)))


@control
def windows_of_an_image(batch):
    """Four windows a sample between the layers."""
    return _Windows(), torch.randn(batch, 8, 8, 8)


# Convolutions, norms, in place, hooks, wrappers


@control
def convolutions(batch):
    """Convolutions both ways, norms, dropout, pooling, in-place activations."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.2),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.GroupNorm(2, 8),
        nn.SiLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return model, torch.randn(batch, 3, 16, 16)


@control
def channels_last(batch):
    """The same kinds in channels-last order."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.Flatten(),
        nn.Linear(1568, 4),
    )
    order = torch.channels_last
    return model.to(memory_format=order), torch.randn(batch, 3, 16, 16).to(memory_format=order)


@control
def batch_norm_over_rows(batch):
    """BatchNorm1d: its statistics are as before afterwards."""
    return nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(batch, 16)


@control
def relu_in_place(batch):
    """In-place activations between Linears."""
    model = mlp(16, 16, 16, 4)
    for layer in model[1::2]:
        layer.inplace = True
    return model, torch.randn(batch, 16)


class _Residual(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.norm, self.body = nn.GroupNorm(4, width), nn.Conv2d(width, out, 3, padding=1)
        self.time, self.skip = nn.Linear(32, out), nn.Conv2d(width, out, 1)

    def forward(self, x, time):
        return self.body(F.silu(self.norm(x))) + self.time(time)[..., None, None] + self.skip(x)


class _Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.first, self.last = (
            mlp(1, 32, 32),
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 3, 3, padding=1),
        )
        self.down = nn.ModuleList([_Residual(16, 32), _Residual(32, 64)])
        self.up = nn.ModuleList([_Residual(128, 32), _Residual(64, 16)])

    def forward(self, sample, step):
        time, x, kept = self.time(step[:, None] / 1000), self.first(sample), []
        for layer in self.down:
            x = layer(x, time)
            kept.append(x)
            x = F.avg_pool2d(x, 2)
        for layer in self.up:
            x = layer(torch.cat([F.interpolate(x, scale_factor=2), kept.pop()], 1), time)
        return {"sample": self.last(x)}


@control
def denoiser(batch):
    """A U-Net with a time embedding read everywhere, its skips in a list."""
    inputs = {"sample": torch.randn(batch, 3, 16, 16), "step": torch.rand(batch)}
    return _Denoiser(), inputs, torch.randn(batch, 3, 16, 16), lambda out, t: F.mse_loss(out["sample"], t)


@control
def hooks(batch):
    """A forward hook that doubles an output, a backward hook that watches."""
    model = mlp(16, 16, 16, 4)
    model[2].register_forward_hook(lambda module, inputs, out: 2 * out)
    model[0].register_full_backward_hook(lambda module, before, after: None)
    return model, torch.randn(batch, 16)


@control
def data_parallel_wrapper(batch):
    """nn.DataParallel around it, on a machine with no device."""
    return nn.DataParallel(mlp(16, 16, 4)), torch.randn(batch, 16)


@control
def compiled_model(batch):
    """torch.compile around it."""
    return torch.compile(mlp(16, 16, 16, 4)), torch.randn(batch, 16)


@control
def compiled_blocks(batch):
    """torch.compile around each block."""
    return nn.Sequential(*(torch.compile(mlp(16, 16, 16)) for _ in range(3))), torch.randn(batch, 16)


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


class _Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.two(_Square.apply(self.one(x)))


@control
def function_as_autograd_has_it(batch):
    """An own function whose backward is what autograd's would be."""
    return _Squared(), torch.randn(batch, 16)


class _Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.seen = nn.Linear(16, 16), nn.Linear(16, 4), []

    def forward(self, x):
        x = self.one(x)
        self.seen.append(x.detach().mean().item())
        return self.two(torch.relu(x))


@control
def value_logged(batch):
    """A mean is written down with .item()."""
    return _Logged(), torch.randn(batch, 16)


class _Window(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.two(self.one(x) * torch.from_numpy(np.hanning(16).astype("float32")))


@control
def constant_from_numpy(batch):
    """A window that NumPy makes in forward."""
    return _Window(), torch.randn(batch, 16)


# Shapes of the whole


@control
def one_layer(batch):
    """A model that is one Linear."""
    return nn.Linear(16, 4), torch.randn(batch, 16)


@control
def one_wide_layer_among_narrow(batch):
    """A layer of most parameters at the front."""
    return mlp(16, 2048, 16, 16, 16, 16, 16), torch.randn(batch, 16)


@control
def decoder(batch):
    """The plain decoder that 3 and 5 checkpoint."""
    return Decoder(), words(batch, 64, 500)


@control
def decoder_with_adapters(batch):
    """The same, frozen but for adapters in its MLPs."""
    model = Decoder().requires_grad_(False)
    for block in model.blocks:
        block.down = nn.Sequential(nn.Linear(512, 128).requires_grad_(False), _Adapter(128))
    return model, words(batch, 64, 500)


@control
def causal_by_a_hint(batch):
    """The model of 15 with tgt_is_causal=True beside the mask."""
    return Translator(hint=True), (words(batch, 10, 50), words(batch, 9, 50))


@control
def encoder_and_decoder(batch):
    """The model of 15 without a mask."""
    return Translator(mask=False), (words(batch, 10, 50), words(batch, 9, 50))


class _Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3)

    def forward(self, ids):
        return self.head(self.encoder(self.embed(ids), src_key_padding_mask=ids == 0))


@control
def encoder_with_padding(batch):
    """A padding mask, bool, for all layers."""
    ids = words(batch, 10, 50)
    ids[:, 7:] = 0
    return _Padded(), ids
