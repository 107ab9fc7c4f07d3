"""What is kept, where, and what is computed again; hooks; results kept in attributes."""

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from .more import Plain, more, rows


@more(4)
def checkpoint_over_several_layers(batch):
    stack = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(64, 64), nn.GELU())))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.stack = nn.Linear(16, 64), stack

        def forward(self, x):
            return checkpoint(self.stack, self.first(x), use_reentrant=False)

    return Model(), rows(batch)


@more(4)
def reentrant_checkpoint_over_several_layers(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 64)
            self.stack = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(64, 64), nn.GELU())))

        def forward(self, x):
            return checkpoint(self.stack, self.first(x), use_reentrant=True)

    return Model(), rows(batch)


@more(4)
def checkpoints_in_checkpoints(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layers = nn.Linear(16, 64), nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

        def inner(self, x):
            for layer in self.layers:
                x = checkpoint(lambda y, layer=layer: F.gelu(layer(y)), x, use_reentrant=False)
            return x

        def forward(self, x):
            return checkpoint(self.inner, self.first(x), use_reentrant=False)

    return Model(), rows(batch)


@more(6)
def sequence_of_checkpoints(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(32, 32), nn.ReLU())))

        def forward(self, x):
            return checkpoint_sequential(self.stack, 3, x, use_reentrant=False)

    return Model(), rows(batch, 32)


@more(4)
def checkpoint_under_autocast_and_dropout(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.1), nn.GELU()) for _ in range(4))

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for layer in self.layers:
                    x = checkpoint(layer, x, use_reentrant=False)
            return x.float()

    return Model(), rows(batch, 32)


@more(3)
def activations_kept_elsewhere(batch):
    def call(layer, x):
        with torch.autograd.graph.save_on_cpu():
            return layer(x)

    return Plain(call=call), rows(batch)


class _Packed8(nn.Module):
    """What is kept for backward is kept in half the bytes."""

    def __init__(self):
        super().__init__()
        self.body, self.head = Plain(64, 3), nn.Linear(64, 4)

    def forward(self, x):
        own = {p.untyped_storage().data_ptr() for p in self.parameters()}

        def pack(t):
            return t if t.untyped_storage().data_ptr() in own else t.bfloat16()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t.float()):
            x = self.body(x)
        return self.head(x)


@more(2)
def activations_kept_in_half(batch):
    return _Packed8(), rows(batch, 64)


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, f, *weights):
        ctx.f = f
        with torch.no_grad():
            out = x + f(x)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = x + ctx.f(x)
        found = torch.autograd.grad(y, (x, *ctx.f.parameters()), gradient)
        return found[0], None, *found[1:]


class _OwnRecompute(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = (
            nn.Linear(16, 32),
            nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in range(3)),
        )

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = _Reversible.apply(x, block, *block.parameters())
        return x


@more(4)
def own_function_that_recomputes_a_block(batch):
    return _OwnRecompute(), rows(batch)


@more(3)
def hook_that_replaces_an_output(batch):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    model[0].register_forward_hook(lambda module, args, out: torch.relu(out) + 1)
    model[1].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[2].register_full_backward_pre_hook(lambda module, out: None)
    return model, rows(batch)


class _Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.gate, self.penalty = nn.Linear(16, 16), nn.Linear(16, 4), None

    def forward(self, x):
        self.penalty = self.gate(x).softmax(-1).pow(2).mean()
        return torch.relu(self.linear(x))


class _Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(_Keeps() for _ in range(3)), nn.Linear(16, 4)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x).mean() + sum(block.penalty for block in self.blocks)


@more(4)
def auxiliary_losses_in_attributes(batch):
    return _Auxiliary(), rows(batch)


@more(2)
def feature_hooks_for_a_loss(batch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.features = Plain(16, 2), nn.Linear(16, 4), {}
            for name, layer in self.body.named_children():
                layer[0].register_forward_hook(lambda module, args, out, name=name: self.features.update({name: out}))

        def forward(self, x):
            out = self.head(self.body(x))
            return out.mean() + sum(one.pow(2).mean() for one in self.features.values())

    return Model(), rows(batch)


def _policy(context, operator, *given, **how):
    kept = operator == torch.ops.aten.mm.default
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


@more(3)
def checkpoint_that_keeps_products(batch):
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return Plain(call=lambda layer, x: checkpoint(layer, x, use_reentrant=False, context_fn=contexts)), rows(batch)


@more(3)
def update_in_backward(batch):
    """Each parameter is updated as soon as its gradient is there."""
    model = Plain()
    for parameter in model.parameters():
        optimizer = torch.optim.SGD([parameter], 0.0)
        parameter.register_post_accumulate_grad_hook(lambda _, step=optimizer.step: (step(), None)[1])
    return model, rows(batch)
