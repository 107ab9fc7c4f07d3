"""Models that are more than a graph of operations: backward passes of their own, state that forward moves, and more."""

import copy
import random
import types
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint


class Between(nn.Module):
    """Two Linears with something between them."""

    def __init__(self, between):
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 4)
        self.between = between

    def forward(self, x):
        return self.two(self.between(torch.tanh(self.one(x))))


def function(forward, backward):
    """Return what applies an autograd.Function of these two."""

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return forward(x)

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, *ctx.saved_tensors)

    return Own.apply


class Tripled(nn.Module):
    def forward(self, x):
        return function(lambda x: x * 1, lambda gradient, x: 3 * gradient)(x)


class Adversary(nn.Module):
    """A branch whose gradient is reversed on its way into the trunk."""

    def __init__(self):
        super().__init__()
        self.trunk, self.task, self.domain = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.reverse = function(lambda x: x.view_as(x), lambda gradient, x: -gradient)

    def forward(self, x):
        h = torch.relu(self.trunk(x))
        return self.task(h), self.domain(self.reverse(h))


class Follower(nn.Module):
    """A teacher that follows its student inside forward, and a queue of what it said."""

    def __init__(self):
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        with torch.no_grad():
            for parameter in self.teacher.parameters():
                parameter.mul_(0.5)
        self.register_buffer("queue", torch.randn(12, 6))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        with torch.no_grad():
            for mine, other in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                other.mul_(0.9).add_(mine, alpha=0.1)
            key = self.teacher(x)
        scores = self.student(x) @ torch.cat([key, self.queue.clone()]).T
        with torch.no_grad():
            self.queue = torch.cat([self.queue[len(x) :], key])
            self.pointer += len(x)
        return scores


class Clamped(nn.Module):
    """Weights that are written before they are used, in one of three ways."""

    def __init__(self, how):
        super().__init__()
        self.one, self.two, self.how = nn.Linear(6, 6), nn.Linear(6, 4), how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                self.one.weight.clamp_(-0.1, 0.1)
        elif self.how == "data":
            self.one.weight.data.clamp_(-0.1, 0.1)
        else:
            self.one.weight.data = self.one.weight.data * 0.5
        return self.two(torch.relu(self.one(x)))


class Counter(nn.Module):
    """Counts its calls, in a number, a list, a buffer, or a tensor that is no buffer."""

    def __init__(self, how, steers):
        super().__init__()
        self.one, self.two, self.how, self.steers = nn.Linear(6, 6), nn.Linear(6, 4), how, steers
        self.calls, self.seen = 0, []
        if how == "buffer":
            self.register_buffer("mean", torch.zeros(6))
        else:
            self.mean = torch.zeros(6)

    def forward(self, x):
        h = self.one(x)
        factor = 1.0
        if self.how == "number":
            self.calls += 1
            factor = self.calls / 10
        elif self.how == "list":
            self.seen.append(len(x))
            factor = len(self.seen) / 10
        elif self.how == "attribute in place":
            self.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
            h = h - self.mean
        elif self.how in ("attribute", "buffer"):
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            h = h - self.mean
        return self.two(h * factor if self.steers else h)


class Drawing(nn.Module):
    """Draws from generators of Python, NumPy or PyTorch."""

    def __init__(self, how):
        super().__init__()
        self.one, self.two, self.how = nn.Linear(6, 6), nn.Linear(6, 4), how

    def forward(self, x):
        h = self.one(x)
        if self.how == "python":
            h = h if random.random() < 2 else 2 * h
        elif self.how == "numpy":
            h = h * float(np.random.rand())
        else:
            h = F.dropout(h, 0.5, self.training) + torch.randn_like(h)
        return self.two(h)


class OtherPath(nn.Module):
    """Computes something else where it thinks that it is exported."""

    def __init__(self, asked):
        super().__init__()
        self.one, self.two, self.asked = nn.Linear(6, 6), nn.Linear(6, 4), asked

    def forward(self, x):
        h = self.one(x)
        return self.two(h if self.asked() else h * torch.sigmoid(h))


class Dead(nn.Module):
    """The second of three layers is called, and nobody reads what it makes; the fourth is never called."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.spare = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = self.one(x)
        self.two(x)
        return self.three(x)


class Regions(nn.Module):
    """A frozen teacher's layers under no_grad, and a student's under autocast."""

    def __init__(self):
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).requires_grad_(False)
        self.student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        with torch.no_grad():
            wanted = self.teacher(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = self.student(x)
        return found.float() - wanted


@dataclass
class Scores:
    main: torch.Tensor
    other: dict


class Cache:
    def __init__(self, keys):
        self.keys = keys


class Answers(nn.Module):
    """An output of one of several kinds."""

    def __init__(self, kind):
        super().__init__()
        self.one, self.two, self.kind = nn.Linear(6, 6), nn.Linear(6, 4), kind

    def forward(self, x):
        h = torch.relu(self.one(x))
        y = self.two(h)
        return {
            "namespace": lambda: types.SimpleNamespace(y=y, hidden=[h]),
            "dataclass": lambda: Scores(y, {"hidden": h}),
            "dataclasses": lambda: [Scores(y, {}), Scores(h, {"twice": (2 * y, "word")})],
            "cache": lambda: {"y": y, "cache": Cache(h)},
        }[self.kind]()


def decoder(call):
    """Return blocks that are called through `call`."""

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))

        def forward(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = call(block, x)
            return x

    return Stack()


def reentrant(block, x):
    return checkpoint(block, x, use_reentrant=True)


def not_reentrant(block, x):
    return checkpoint(block, x, use_reentrant=False)
