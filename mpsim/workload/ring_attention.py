"""Attention of a part of the queries to all keys and values, which come by in parts from the other ranks.

What PyTorch's ``context_parallel`` does (https://arxiv.org/abs/2310.01889): a step with each rank's keys and values,
whose outputs are merged by their log-sum-exp. Causal, a rank has the piece that is as far from the start as its other
piece is from the end, so that all do the same work, and no work that the mask would drop::

    rank 0 of 2: pieces 0 3       k0 k3 | k1 k2        rank 1 of 2: pieces 1 2       k1 k2 | k0 k3
                          q0      ▒▒    |                                   q1       ▒▒    | ██
                          q3      ██ ▒▒ | ██ ██                             q2       ██ ▒▒ | ██
                                  step 0  step 1                                     step 0  step 1

The gradients of keys and values go round with them, in float32, and once more to get home.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F  # noqa: N812
from torch._guards import detect_fake_mode

from mpsim.errors import MpsimError
from mpsim.workload.collective_recorder import placed
from mpsim.workload.exchanged import waited

__all__ = ["Peers", "ring_attention"]

_aten = torch.ops.aten
_all_gather = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor  # its name before 2.13


class Peers(NamedTuple):
    """The ranks that share a sequence, as one of them sees them.

    Attributes
    ----------
    ranks, rank : int
        How many they are, and which of them it is.
    group : object
        Their process group; None: the rank is alone, and its own tensors stand in for those of the others.

    Examples
    --------
    >>> Peers(2, 0).shift(torch.ones(1), "beside")
    tensor([1.])
    """

    ranks: int
    rank: int
    group: Any = None

    def shift(self, tensor: torch.Tensor, when: str) -> torch.Tensor:
        """Return what the rank before sends, having sent this to the next."""
        if self.group is None:
            return tensor
        with placed(when):
            to = [(rank + 1) % self.ranks for rank in range(self.ranks)]
            return waited(collectives.permute_tensor(tensor.contiguous(), to, self.group))

    def gather(self, tensor: torch.Tensor, when: str) -> torch.Tensor:
        """Return what all ranks have, [ranks, ...]; alone, as many copies of this."""
        if self.group is None:
            return torch.stack([tensor] * self.ranks)
        with placed(when):
            found = waited(_all_gather(tensor.contiguous(), 0, self.group))
        return found.view(self.ranks, *tensor.shape)

    def exchange(self, tensor: torch.Tensor, when: str) -> torch.Tensor:
        """Return what each rank sends to this one, having sent each its part of the first dimension."""
        if self.group is None:
            return tensor
        with placed(when):
            return waited(collectives.all_to_all_single(tensor.contiguous(), None, None, self.group))


class _Kernel(NamedTuple):
    """A fused attention: forward gives the output, the log-sum-exp, and what its backward takes besides."""

    forward: Callable[..., tuple[Any, Any, tuple[Any, ...]]]
    backward: Callable[..., tuple[Any, ...]]
    grouped: bool


def _flash(dropout: float, scale: float | None) -> _Kernel:
    def forward(q: Any, k: Any, v: Any, causal: bool) -> tuple[Any, Any, tuple[Any, ...]]:
        out, lse, *rest = _aten._scaled_dot_product_flash_attention(q, k, v, dropout, causal, False, scale=scale)
        return out, lse, tuple(rest[:6])

    def backward(g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, causal: bool, rest: Any) -> tuple[Any, ...]:
        cum_q, cum_k, max_q, max_k, seed, offset = rest
        max_q, max_k = q.shape[2] if isinstance(max_q, int) else max_q, k.shape[2]
        found: tuple[Any, ...] = _aten._scaled_dot_product_flash_attention_backward(
            g, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, dropout, causal, seed, offset, scale=scale
        )
        return found

    return _Kernel(forward, backward, True)


def _efficient(dropout: float, scale: float | None) -> _Kernel:
    def forward(q: Any, k: Any, v: Any, causal: bool) -> tuple[Any, Any, tuple[Any, ...]]:
        out, lse, seed, offset = _aten._scaled_dot_product_efficient_attention(
            q, k, v, None, True, dropout, causal, scale=scale
        )
        return out, lse[..., : q.shape[2]], (seed, offset)

    def backward(g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, causal: bool, rest: Any) -> tuple[Any, ...]:
        lse = F.pad(lse, (0, -lse.shape[-1] % 32), value=float("inf"))
        found: tuple[Any, ...] = _aten._scaled_dot_product_efficient_attention_backward(
            g, q, k, v, None, out, lse, *rest, dropout, (True, True, True, False), causal, scale=scale
        )
        return found

    return _Kernel(forward, backward, False)


def _on_cpu(dropout: float, scale: float | None) -> _Kernel:
    def forward(q: Any, k: Any, v: Any, causal: bool) -> tuple[Any, Any, tuple[Any, ...]]:
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, causal, scale=scale)
        return out, lse, ()

    def backward(g: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, causal: bool, rest: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g, q, k, v, out, lse, dropout, causal, scale=scale
        )
        return found

    return _Kernel(forward, backward, False)


def _kernel(q: torch.Tensor, v: torch.Tensor, dropout: float, scale: float | None) -> _Kernel:
    """Return the fused attention that PyTorch runs where the tensors are, or, of fake ones, on a GPU."""
    if detect_fake_mode((q, v)) is not None or q.is_meta:
        return (_flash if q.shape[-1] == v.shape[-1] else _efficient)(dropout, scale)
    if q.is_cuda:
        halves = q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] == v.shape[-1]
        return (_flash if halves else _efficient)(dropout, scale)
    if dropout or q.shape[-1] != v.shape[-1]:
        raise MpsimError(
            "attention by context parallelism on a CPU takes no dropout and values as wide as keys, found dropout"
            f" {dropout}, keys of {q.shape[-1]} and values of {v.shape[-1]}: set the dropout to 0, or trace with"
            " --analytical DEVICE"
        )
    return _on_cpu(dropout, scale)


class _Step(NamedTuple):
    """A step: which of the queries and of the keys that came by it has, and whether it has a mask."""

    queries: slice
    keys: slice
    causal: bool


def _steps(peers: Peers, queries: int, keys: int, causal: bool) -> list[_Step]:
    """Return the steps of a rank: of queries and keys, whole or one of the two pieces."""
    every = [_Step(slice(0, queries), slice(0, keys), causal)]
    if not causal:
        return every * peers.ranks
    early, late = _Step(slice(0, queries), slice(0, keys // 2), False), _Step(slice(queries // 2, queries),
                                                                           slice(0, keys), False)  # fmt: skip
    return [*every, *[early] * peers.rank, *[late] * (peers.ranks - 1 - peers.rank)]


def ring_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    peers: Peers,
    *,
    gathered: bool,
    causal: bool,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """Return the attention of a rank's queries [batch, heads, sequence, features] to those of all.

    Parameters
    ----------
    query, key, value : torch.Tensor
        Those of the rank's own part of the sequence.
    peers : Peers
        Who has the others.
    gathered : bool
        Whether keys and values come by one all-gather, or go round from rank to rank.
    causal : bool
        Whether no query sees later keys.
    dropout : float
        Of attention's weights.
    scale : float
        Of scores; by default one over the root of the features.

    Examples
    --------
    >>> q = torch.rand(1, 2, 4, 8)
    >>> ring_attention(q, q, q, Peers(2, 0), gathered=True, causal=True).shape
    torch.Size([1, 2, 4, 8])
    """
    found: torch.Tensor = _Ring.apply(query, key, value, peers, gathered, causal, dropout, scale)
    return found


def _spread(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Return keys or values with as many heads as queries, for a kernel that knows no groups."""
    times = heads // tensor.shape[1]
    return tensor if times == 1 else tensor.repeat_interleave(times, 1)


def _back(gradient: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the gradient of keys or values that were spread."""
    return gradient if gradient.shape[1] == heads else gradient.unflatten(1, (heads, -1)).sum(2)


class _Ring(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        query: Any,
        key: Any,
        value: Any,
        peers: Peers,
        gathered: bool,
        causal: bool,
        dropout: float,
        scale: Any,
    ) -> Any:
        kernel = _kernel(query, value, dropout, scale)
        out = lse = None
        rests = []
        coming = _Coming(key, value, peers, gathered)
        for step in _steps(peers, query.shape[2], key.shape[2], causal):
            k, v = (_heads(kernel, item[:, :, step.keys], query) for item in coming.next())
            block, block_lse, rest = kernel.forward(query[:, :, step.queries], k, v, step.causal)
            rests.append(rest)
            block, block_lse = block.float(), block_lse.unsqueeze(-1)
            if out is None or lse is None:
                out, lse = block, block_lse
                continue
            part, part_lse = out[:, :, step.queries], lse[:, :, step.queries]
            merged = part - F.sigmoid(block_lse - part_lse) * (part - block)
            merged_lse = part_lse - F.logsigmoid(part_lse - block_lse)
            before = slice(0, step.queries.start)
            out = torch.cat([out[:, :, before], merged], 2) if step.queries.start else merged
            lse = torch.cat([lse[:, :, before], merged_lse], 2) if step.queries.start else merged_lse
        assert out is not None
        assert lse is not None
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse.squeeze(-1))
        ctx.how = (peers, gathered, causal, dropout, scale, rests)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        query, key, value, out, lse = ctx.saved_tensors
        peers, gathered, causal, dropout, scale, rests = ctx.how
        kernel = _kernel(query, value, dropout, scale)
        of_query = torch.zeros_like(query, dtype=torch.float32)
        of_key, of_value = (torch.zeros_like(item, dtype=torch.float32) for item in (key, value))
        coming = _Coming(key, value, peers, gathered)
        steps = _steps(peers, query.shape[2], key.shape[2], causal)
        for i, (step, rest) in enumerate(zip(steps, rests, strict=True)):
            k, v = (_heads(kernel, item[:, :, step.keys], query) for item in coming.next())
            q, o, g = (item[:, :, step.queries] for item in (query, out, gradient))
            found = kernel.backward(g, q, k, v, o, lse[:, :, step.queries].contiguous(), step.causal, rest)
            if i:  # what the ranks before have added up comes by, having been sent while this step computed
                of_key, of_value = _sent((of_key, of_value), peers, "beside")
            of_query[:, :, step.queries] += found[0]
            of_key[:, :, step.keys] += _back(found[1], key.shape[1])
            of_value[:, :, step.keys] += _back(found[2], value.shape[1])
        of_key, of_value = _sent((of_key, of_value), peers, "behind")
        return of_query.to(query.dtype), of_key.to(key.dtype), of_value.to(value.dtype), None, None, None, None, None


def _heads(kernel: _Kernel, tensor: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return tensor if kernel.grouped else _spread(tensor, query.shape[1])


def _packed(tensors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.cat([item.flatten() for item in tensors])


def _unpacked(buffer: torch.Tensor, like: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = buffer.split([item.numel() for item in like])
    return first.view(like[0].shape), second.view(like[1].shape)


def _sent(tensors: tuple[Any, Any], peers: Peers, when: str) -> tuple[torch.Tensor, torch.Tensor]:
    return _unpacked(peers.shift(_packed(tensors), when), tensors)


class _Coming:
    """Keys and values, those of the rank itself first, then those of the ranks before it."""

    def __init__(self, key: Any, value: Any, peers: Peers, gathered: bool) -> None:
        self.now, self.peers, self.gathered = (key, value), peers, gathered
        self.taken = 0
        self.all: torch.Tensor | None = None

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a step computes with."""
        if self.taken and self.gathered:
            if self.all is None:
                self.all = self.peers.gather(_packed(self.now), "before")
            self.now = _unpacked(self.all[self.peers.rank - self.taken], self.now)
        elif self.taken:
            self.now = _sent(self.now, self.peers, "beside")
        self.taken += 1
        return self.now
