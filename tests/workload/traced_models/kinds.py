"""Kinds of tensors, losses, containers, and ways to call."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .more import Plain, more, rows


class _Jagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x, offsets):
        nested = torch.nested.nested_tensor_from_jagged(x, offsets)
        return self.two(torch.relu(self.one(nested))).values()


@more(2)
def jagged_rows(batch):
    return _Jagged(), (torch.randn(5 * batch, 16), torch.arange(0, 5 * batch + 1, 5))


class _Frequencies(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.filter, self.out = nn.LayerNorm(16), nn.Parameter(torch.randn(9, 16, 2)), nn.Linear(16, 16)

    def forward(self, x):
        spectrum = torch.fft.rfft(self.norm(x), dim=1) * torch.view_as_complex(self.filter)
        return x + self.out(torch.fft.irfft(spectrum, n=x.shape[1], dim=1))


@more(2)
def filters_in_frequency(batch):
    return nn.Sequential(_Frequencies(), _Frequencies()), torch.randn(batch, 16, 16)


class _Neighbours(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x, near):
        return torch.sparse.mm(near, self.two(torch.relu(torch.sparse.mm(near, self.one(x)))))


@more(2)
def sparse_adjacency(batch):
    return _Neighbours(), (rows(6 * batch, 8), (torch.rand(6 * batch, 6 * batch) > 0.7).float().to_sparse())


@more(2)
def sparse_adjacency_in_a_buffer(batch):
    class Model(_Neighbours):
        def __init__(self):
            super().__init__()
            self.register_buffer("near", (torch.rand(24, 24) > 0.7).float().to_sparse_csr())

        def forward(self, x):
            return super().forward(x, self.near)

    return Model(), rows(6 * batch, 8)


class _Margins(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(10, 16))

    def forward(self, out, target):
        return F.cross_entropy(8 * F.normalize(out) @ F.normalize(self.centres).T, target)


class _WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.criterion = Plain(), _Margins()

    def forward(self, x, target):
        return {"loss": self.criterion(self.body(x), target)}


@more(2, "criterion")
def loss_module_with_parameters(batch):
    return _WithLoss(), {"x": rows(batch), "target": torch.randint(0, 10, (batch,))}


@more(5)
def containers_in_containers(batch):
    model = nn.Linear(16, 16)
    for _ in range(30):
        model = nn.Sequential(model)
    wide = nn.Sequential(*(nn.Sequential(nn.Sequential(nn.Linear(16, 16)), nn.Tanh()) for _ in range(4)))
    return nn.Sequential(model, nn.Sequential(wide)), rows(batch)


@more(3)
def modules_called_by_method(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.middle, self.decoder = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 16)

        def encode(self, x):
            return torch.relu(self.encoder(x))

        def decode(self, z):
            return self.decoder(self.middle.forward(z) + self.middle(z))

        def forward(self, x):
            return self.decode(self.encode(x))

    return Model(), rows(batch)


@more(2)
def functional_call_of_the_whole(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Plain(16, 2)

        def forward(self, x):
            weights = {name: p * 0.5 for name, p in self.inner.named_parameters()}
            return torch.func.functional_call(self.inner, weights, (x,))

    return Model(), rows(batch)


@more(1)
def scripted_part(batch):
    return nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.ReLU())), nn.Linear(16, 4)), rows(batch)


class _Chunked(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        a, b = self.one(x).chunk(2, -1)
        b = b.clone()
        b[:, 0] = 0
        b.add_(self.two(a))
        return self.three(b * torch.sigmoid(a))


@more(3)
def halves_written_in_place(batch):
    return _Chunked(), rows(batch)


class _Pieces(nn.Module):
    """The batch goes through in chunks, as chunked feed-forward layers do."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 4)

    def forward(self, x):
        out = torch.empty_like(x)
        for i, part in enumerate(x.chunk(2)):
            out[i * len(part) : (i + 1) * len(part)] = self.down(torch.relu(self.up(part)))
        return self.head(out)


@more(5)
def chunks_into_one_output(batch):
    return _Pieces(), rows(batch)


class _Diffuser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.body = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 16)), Plain(16, 2)
        self.out = nn.Linear(16, 16)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x):
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        guess = self.out(self.body((1 - t) * x + t * noise) + self.time(t))
        return F.mse_loss(guess, noise - x)


@more(4)
def noise_drawn_in_forward(batch):
    return _Diffuser(), rows(batch)


@more(3)
def optimizer_in_backward(batch):
    model = Plain()
    for p in model.parameters():
        p.register_hook(lambda g: g * 0.5)
    return model, rows(batch)


@more(2)
def list_of_dicts_as_input(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, samples, flag=None):
            return [{"score": self.two(torch.relu(self.one(s["x"]))), "name": s["name"]} for s in samples]

    return Model(), ([{"x": rows(1)[0], "name": str(i)} for i in range(batch)],)


@torch.library.custom_op("mpsim_tests::twice", mutates_args=())
def _twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


_twice.register_autograd(lambda ctx, gradient: gradient * 2)


@more(3)
def operator_of_ones_own(batch):
    return Plain(call=lambda layer, x: _twice(layer(x))), rows(batch)
