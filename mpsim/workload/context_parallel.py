"""A sequence shared by ranks throughout, its attention included (context parallelism).

Each rank has 1/n of the tokens everywhere: what it is fed, and the target, are cut. Its attention is to the tokens of
all, by one of these; which one a model calls does not matter, as long as it calls PyTorch's
``scaled_dot_product_attention``.

=============== ======================================================================================================
``ring``        keys and values go round, a step of attention beside each move (https://arxiv.org/abs/2310.01889)
``all-gather``  keys and values are gathered at once, in forward and again in backward: PyTorch's default
``ulysses``     tokens are exchanged for heads, and back (https://arxiv.org/abs/2309.14509)
=============== ======================================================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpsim.errors import MpsimError, did_you_mean
from mpsim.workload.become import become
from mpsim.workload.example import Example
from mpsim.workload.exchanged import as_autocast
from mpsim.workload.ring_attention import Peers, ring_attention
from mpsim.workload.sequences import check_length, cut_sequences, sequence_lengths

__all__ = ["METHODS", "Context", "check_method", "cut_context", "share_context", "without_masks"]

_MASKLESS = "mpsim_maskless_sdpa"  # transformers makes no mask for an attention of whose masks it knows nothing
METHODS = ("all-gather", "ring", "ulysses")


def check_method(method: str) -> None:
    """Refuse a way of sharing attention that there is not.

    Examples
    --------
    >>> check_method("ring")
    """
    if method not in METHODS:
        raise MpsimError(f"unknown context parallelism {method!r}{did_you_mean(method, METHODS)}")


def cut_context(example: Example, method: str, peers: Peers) -> Example:
    """Return an example with a rank's part of its sequences and targets.

    Around a ring that is two pieces, one as far from the start as the other is from the end, which a causal attention
    needs (other attentions take a sequence that does not divide so); of tokens for heads it is one.

    Raises
    ------
    MpsimError
        A sequence does not divide.

    Examples
    --------
    >>> cut_context(Example(model=None, inputs=(torch.arange(8)[None],)), "ring", Peers(2, 0)).inputs[0].tolist()
    [[0, 1, 6, 7]]
    """
    for length in sorted(sequence_lengths(example)):
        check_length(length, peers.ranks, f"{peers.ranks} context-parallel ranks", least=2 * peers.ranks)
        if length < 2 * peers.ranks:  # models take a query alone for one that sees all keys
            raise MpsimError(
                f"a sequence of {length} leaves {peers.ranks} context-parallel ranks a token each: give"
                f" {2 * peers.ranks} or more"
            )
    return cut_sequences(example, partial(_part, method=method, peers=peers), target=True)


def _part(sequence: torch.Tensor, method: str, peers: Peers) -> torch.Tensor:
    if method == "ulysses" or sequence.shape[1] % (2 * peers.ranks):
        return sequence.chunk(peers.ranks, 1)[peers.rank]
    pieces = sequence.chunk(2 * peers.ranks, 1)
    return torch.cat([pieces[peers.rank], pieces[-1 - peers.rank]], 1)


class Context:
    """What attention is called with, for as long as a model's forward goes on.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    peers : Peers
        The ranks that share a sequence.
    lengths : frozenset of int
        How long their parts of it are; none: whatever attention is called with.

    Attributes
    ----------
    attending : bool
        Whether a call of attention goes on.

    Examples
    --------
    >>> with Context("ring", Peers(2, 0)).shared():
    ...     q = torch.rand(1, 2, 4, 8)
    ...     F.scaled_dot_product_attention(q, q, q).shape
    torch.Size([1, 2, 4, 8])
    """

    def __init__(self, method: str, peers: Peers, lengths: frozenset[int] = frozenset()) -> None:
        self.method, self.peers, self.lengths = method, peers, lengths
        self.attending = False
        self._whole = F.scaled_dot_product_attention

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Within this, attention is shared by ranks."""
        self._whole = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = self._called
        try:
            yield
        finally:
            F.scaled_dot_product_attention = self._whole

    def _called(self, query: Any, key: Any, *others: Any, **how: Any) -> Any:
        self._check_lengths(query, key)
        self.attending = True
        try:
            return self._attention(query, key, *others, **how)
        finally:
            self.attending = False

    def _check_lengths(self, *read: Any) -> None:
        """Refuse attention that is not of parts of what the model is fed, such as of another input, or over batches."""
        odd = next((item.shape[-2] for item in read if self.lengths and item.shape[-2] not in self.lengths), None)
        if odd is not None:
            raise MpsimError(
                f"attention reads {odd} tokens, a rank's part of what the model is fed [batch, sequence, …] is"
                f" {' or '.join(map(str, sorted(self.lengths)))}: context parallelism takes attention of these alone;"
                " leave cp out of the split"
            )

    def _attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if attn_mask is not None:
            raise MpsimError(
                "context parallelism takes attention that is causal or sees all, this one has a mask: give the model"
                " no mask, or leave cp out of the split"
            )
        query, key, value = (as_autocast(item) for item in (query, key, value))
        if self.method == "ulysses":
            q, k, v = (_swapped(item, self.peers, inward=True) for item in (query, key, value))
            how: dict[str, Any] = {
                "dropout_p": dropout_p,
                "is_causal": is_causal,
                "scale": scale,
                "enable_gqa": enable_gqa,
            }
            return _swapped(self._whole(q, k, v, **how), self.peers, inward=False)
        if is_causal:
            pieces = 2 * self.peers.ranks
            by = f"2·cp = {pieces}, into which a causal attention is cut"
            check_length(query.shape[2] * self.peers.ranks, pieces, by)
        gathered = self.method == "all-gather"
        return ring_attention(
            query, key, value, self.peers, gathered=gathered, causal=is_causal, dropout=dropout_p, scale=scale
        )


def _swapped(tensor: torch.Tensor, peers: Peers, *, inward: bool) -> torch.Tensor:
    """Return all tokens of 1/n of the heads for 1/n of the tokens of all heads, or back: [batch, heads, tokens, d]."""
    if inward and tensor.shape[1] % peers.ranks:
        raise MpsimError(
            f"{tensor.shape[1]} attention heads do not divide by {peers.ranks} context-parallel ranks that exchange"
            " them for tokens: give a cp that divides them, or --context ring"
        )
    found: torch.Tensor = _Swap.apply(tensor, peers, inward)
    return found


class _Swap(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, tensor: Any, peers: Peers, inward: bool) -> Any:
        ctx.how = peers, inward
        return _swap(tensor, peers, inward)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        peers, inward = ctx.how
        return _swap(gradient, peers, not inward), None, None


def _swap(tensor: torch.Tensor, peers: Peers, inward: bool) -> torch.Tensor:
    n = peers.ranks
    if inward:  # [batch, n · heads, tokens, d] → [n, batch, heads, tokens, d] → [batch, heads, n · tokens, d]
        parts = tensor.unflatten(1, (n, -1)).movedim(1, 0).contiguous()
        return peers.exchange(parts, "before").movedim(0, 2).flatten(2, 3)
    parts = tensor.unflatten(2, (n, -1)).movedim(2, 0).contiguous()
    return peers.exchange(parts, "behind").movedim(0, 1).flatten(1, 2)


def without_masks(model: nn.Module, length: int = 0) -> tuple[str, ...]:
    """Let models of transformers' make no masks for PyTorch's attention, and say of those that are left out.

    Without one a causal attention is told that it is causal. Transformers makes none of its own accord where all tokens
    are to be attended to, but for tensors whose values it cannot see. Windows shorter than sequences of `length` are
    left out with the masks that make them.

    Examples
    --------
    >>> without_masks(nn.Linear(1, 1))
    ()
    """
    configs: dict[int, Any] = {id(one): one for one in (getattr(item, "config", None) for item in model.modules())}
    found = [one for one in configs.values() if getattr(one, "_attn_implementation", None) == "sdpa"]
    if not found:
        return ()
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_MASKLESS, sdpa_attention_forward)
    for one in found:
        one._attn_implementation = _MASKLESS
    left = "ranks that share sequences attend to all tokens, or to all earlier ones: masks of padding are left out"
    windows = sorted({window for one in found for window in _windows(one) if window < length})
    return (left, *(f"so are windows of {window} tokens: attention is costed as if of all" for window in windows))


def _windows(config: Any) -> list[int]:
    """Return how many tokens attention sees at most, in the layers of which transformers says so."""
    found = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return [window for window in found if isinstance(window, int)]


class _Attending:
    """A module whose attention is that of one of the ranks that share a sequence."""

    shared_context: Context

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        with self.shared_context.shared():
            return super().forward(*inputs, **keywords)  # type: ignore[misc]


def share_context(model: nn.Module, paths: Iterable[str], method: str, peers: Peers) -> None:
    """Let the attention of modules be that of one of several ranks from now on, run again by a checkpoint too.

    Examples
    --------
    >>> model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True))
    >>> share_context(model, ["0.self_attn"], "ring", Peers(2, 1))
    >>> model(torch.rand(1, 4, 8)).shape, type(model[0].self_attn).__name__
    (torch.Size([1, 4, 8]), 'MultiheadAttention')
    """
    for module in {model.get_submodule(path) for path in paths}:
        become(module, _Attending, shared_context=Context(method, peers))
