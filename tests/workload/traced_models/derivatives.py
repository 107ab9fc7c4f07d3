"""Derivatives within a step, functions of functions, and weights that are computed."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations

from .more import Plain, more, rows


@more(3)
def gradient_penalty_in_the_loss(batch):
    """The loss holds the norm of the gradient of the output by the input, as in WGAN-GP."""
    x = rows(batch).requires_grad_()

    def loss(out, target):
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out.mean() + (slope.norm(dim=1) - 1).pow(2).mean()

    return Plain(), x, None, loss


class _PenaltyInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = Plain()

    def forward(self, x):
        x = x.detach().requires_grad_()
        score = self.critic(x)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        return score.mean() + slope.pow(2).mean()


@more(3)
def gradient_penalty_in_forward(batch):
    return _PenaltyInside(), rows(batch)


class _Functorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 1)

    def energy(self, x):
        return self.two(torch.tanh(self.one(x))).sum()

    def forward(self, x):
        return torch.func.grad(self.energy)(x)


@more(1)
def functorch_gradient_in_forward(batch):
    return _Functorch(), rows(batch)


class _Jacobian(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x):
        out, tangent = torch.func.jvp(lambda v: self.two(torch.tanh(self.one(v))), (x,), (torch.ones_like(x),))
        return self.head(out + tangent)


@more(1)
def forward_mode_product(batch):
    return _Jacobian(), rows(batch, 4)


class _InnerSteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fast = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x, y):
        h = torch.tanh(self.body(x))
        weights = dict(self.fast.named_parameters())
        for _ in range(2):
            loss = F.mse_loss(torch.func.functional_call(self.fast, weights, (h,)), y)
            slopes = torch.autograd.grad(loss, tuple(weights.values()), create_graph=True)
            weights = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
        return F.mse_loss(torch.func.functional_call(self.fast, weights, (h,)), y)


@more(3)
def inner_steps_of_a_metalearner(batch):
    return _InnerSteps(), (rows(batch), rows(batch, 4))


class _TestTime(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.probe = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        h = self.body(x)
        with torch.enable_grad():
            shift = torch.zeros_like(h, requires_grad=True)
            self.probe(h.detach() + shift).pow(2).mean().backward(inputs=[shift])
        return self.probe(h - shift.grad)


@more(3)
def backward_inside_forward(batch):
    return _TestTime(), rows(batch)


@more(3)
def orthogonal_weights(batch):
    return nn.Sequential(*(parametrizations.orthogonal(nn.Linear(16, 16)) for _ in range(3))), rows(batch)


@more(1)
def one_layer_of_normed_weight(batch):
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 8))), rows(batch)


@more(4)
def spectral_norms_in_a_discriminator(batch):
    norm = parametrizations.spectral_norm
    model = nn.Sequential(
        norm(nn.Conv2d(3, 8, 3, 2)), nn.LeakyReLU(0.2, inplace=True), norm(nn.Conv2d(8, 16, 3, 2)),
        nn.LeakyReLU(0.2, inplace=True), norm(nn.Conv2d(16, 16, 3)), nn.Flatten(), norm(nn.Linear(16, 1)),
    )  # fmt: skip
    return model, torch.randn(batch, 3, 16, 16)


class _LowRank(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(shape[0], 2)), nn.Parameter(torch.zeros(2, shape[1]))

    def forward(self, weight):
        return weight + self.a @ self.b


@more(3)
def low_rank_as_parametrization(batch):
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    for i in (0, 2):
        model[i].weight.requires_grad_(False)
        nn.utils.parametrize.register_parametrization(model[i], "weight", _LowRank((16, 16)))
    return model, rows(batch)


class _FakeQuantized(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x.abs() < 127 * scale)
        return (x / scale).round().clamp(-127, 127) * scale

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


class _QuantizedLinear(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("range", torch.ones(()))

    def forward(self, x):
        if self.training:
            self.range.mul_(0.9).add_(0.1 * x.detach().abs().max())
        x = _FakeQuantized.apply(x, self.range / 127)
        return F.linear(x, _FakeQuantized.apply(self.weight, self.weight.detach().abs().max() / 127), self.bias)


@more(3)
def quantisation_aware(batch):
    return nn.Sequential(_QuantizedLinear(16, 32), nn.ReLU(), _QuantizedLinear(32, 32), _QuantizedLinear(32, 4)), rows(
        batch
    )


@more(2)
def quantisation_aware_of_torch(batch):
    from torch.ao.nn.qat import Linear
    from torch.ao.quantization import get_default_qat_qconfig

    config = get_default_qat_qconfig("fbgemm")
    return nn.Sequential(Linear(16, 32, qconfig=config), nn.ReLU(), Linear(32, 4, qconfig=config)), rows(batch)


class _Shared(nn.Module):
    """Embedding and projection share one matrix, which is read without its module."""

    def __init__(self):
        super().__init__()
        self.embed, self.body = nn.Embedding(100, 32), Plain(32, 2)

    def forward(self, ids):
        return self.body(self.embed(ids)) @ self.embed.weight.T


@more(2)
def projection_by_the_embedding(batch):
    return _Shared(), torch.randint(0, 100, (batch, 8))


class _Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.scale = Plain(16, 2), Plain(16, 2), nn.Parameter(torch.tensor(2.0))
        self.right.layers[1] = self.left.layers[1]

    def forward(self, x, y):
        a, b = F.normalize(self.left(x), dim=-1), F.normalize(self.right(y), dim=-1)
        return F.cross_entropy(self.scale.exp() * a @ b.T, torch.arange(len(x)))


@more(2)
def towers_that_share_a_layer(batch):
    return _Towers(), (rows(batch), rows(batch))


class _Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrices = nn.ParameterDict(
            {"in": nn.Parameter(torch.randn(16, 8)), "out": nn.Parameter(torch.randn(8, 4))}
        )
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(4))])

    def forward(self, x):
        return F.linear(
            F.gelu(F.linear(x, self.matrices["in"].T, self.shifts[0])), self.matrices["out"].T, self.shifts[1]
        )


@more(1)
def parameters_in_lists_and_dicts(batch):
    return _Raw(), rows(batch)


class _RawBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.mix = (
            nn.Linear(16, 16),
            nn.Linear(16, 4),
            nn.ParameterList(torch.randn(2, 16, 16).unbind()),
        )

    def forward(self, x):
        for matrix in self.mix:
            x = x + torch.relu(self.one(x)) @ matrix
        return self.two(x)


@more(3)
def parameters_read_between_layers(batch):
    return _RawBetween(), rows(batch)


class _Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))

    def forward(self, x):
        named = [dict(member.named_parameters()) for member in self.members]
        weights = {name: torch.stack([one[name] for one in named]) for name in ("weight", "bias")}
        return torch.vmap(lambda own: torch.func.functional_call(self.members[0], own, (x,)))(weights)


@more(1)
def ensemble_under_vmap(batch):
    return _Stacked(), rows(batch)


@more(2)
def weights_in_one_storage(batch):
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    flat = torch.randn(512)
    model[0].weight, model[2].weight = (nn.Parameter(half.view(16, 16)) for half in flat.chunk(2))
    return model, rows(batch)


class _Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Parameter(torch.randn(16 * 16 + 16 * 4) / 8)

    def forward(self, x):
        return torch.tanh(x @ self.flat[:256].view(16, 16)) @ self.flat[256:].view(16, 4)


@more(1)
def all_weights_in_one_parameter(batch):
    return _Flat(), rows(batch)
