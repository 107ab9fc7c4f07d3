"""What tokens do with other tokens must not be traced of a rank's part of a sequence alone.

Ranks that share a sequence exchange for the attention that a plan or a way of sharing it says. Any other attention,
convolution or recurrent layer would run on the part that a rank has: less than its work, and another model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from mpsim.errors import MpsimError
from mpsim.workload.cores import FUSED
from mpsim.workload.split import Split

__all__ = ["refusing_unshared"]


@contextlib.contextmanager
def refusing_unshared(
    model: nn.Module, split: Split, lengths: frozenset[int], inside: Callable[[], str], shared: Callable[[], bool]
) -> Iterator[None]:
    """Within this, refuse what computes on a part of a sequence and needs the others.

    Parameters
    ----------
    model : torch.nn.Module
        Whose forward is run.
    split : Split
        By whom.
    lengths : frozenset of int
        Of the whole sequences.
    inside : callable
        Returns the path of the module that runs.
    shared : callable
        Whether the ranks are exchanging right now for what runs.

    Raises
    ------
    MpsimError
        An attention, a convolution or a recurrent layer reads a part alone.

    Examples
    --------
    >>> with refusing_unshared(nn.Identity(), Split(cp=2), frozenset({8}), lambda: "mixer", lambda: False):
    ...     torch.ones(1, 4, 4).softmax(-1)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: mixer: an attention over 4 tokens, a rank's part of the sequence alone, cp=2 exchanges \
nothing for it: let it call torch.nn.functional.scaled_dot_product_attention, or leave cp out
    """
    watch = _Watch(split, lengths, inside, shared)
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    handles = [module.register_forward_pre_hook(watch.recurrent) for module in recurrent]
    try:
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch(TorchDispatchMode):  # type: ignore[misc]
    def __init__(
        self, split: Split, lengths: frozenset[int], inside: Callable[[], str], shared: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.split, self.inside, self.shared = split, inside, shared
        ranks = (split.cp, split.cp * split.tp if split.sequence else split.cp)
        self.parts = {length // count for length in lengths for count in ranks} - lengths

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        if torch._C._current_autograd_node() is None and not self.shared():
            self._check(str(func), args)
        return func(*args, **(kwargs or {}))

    def _check(self, name: str, args: Any) -> None:
        if any(part in name for part in FUSED):  # [batch, heads, tokens, d]; flash-attn's own has tokens before heads
            tokens = -2 if "scaled_dot_product" in name or "flex" in name else -3
            self._refuse("an attention", [args[0].shape[tokens]])
        elif "softmax" in name and "log_softmax" not in name and args[0].dim() > 2:
            queries, keys = args[0].shape[-2:]  # of [batch, tokens, experts], a router's, the latter are no tokens
            self._refuse("an attention", [queries] if args[0].dim() > 3 or keys in self.parts else [])
        elif name.startswith("aten.convolution.") and args[0].dim() == 3:
            kernel, stride = args[1].shape[-1], args[3][0]
            self._refuse("a convolution", [args[0].shape[-1]] if kernel > stride else [])

    def recurrent(self, _: nn.Module, inputs: Any) -> None:
        """Refuse a recurrent layer that runs over a part."""
        packed = isinstance(inputs[0], nn.utils.rnn.PackedSequence)
        sizes = [len(inputs[0].batch_sizes)] if packed else list(inputs[0].shape[: inputs[0].dim() - 1])
        self._refuse("a recurrent layer", sizes)

    def _refuse(self, what: str, sizes: Sequence[int]) -> None:
        """Refuse what runs over as many tokens as one of the parts has."""
        found = next((size for size in sizes if size in self.parts), None)
        if found is None:
            return
        by_context = self.split.cp > 1
        remedy = {
            True: "let it call torch.nn.functional.scaled_dot_product_attention, or ",
            False: "give its Linears 'colwise' and 'rowwise' in tensor_parallel, or ",
        }[by_context]
        raise MpsimError(
            f"{self.inside() or 'the model'}: {what} over {found} tokens, a rank's part of the sequence alone,"
            f" {f'cp={self.split.cp}' if by_context else self.split.text} exchanges nothing for it:"
            f" {remedy if what == 'an attention' else ''}leave {'cp' if by_context else 'sequence'} out"
        )
