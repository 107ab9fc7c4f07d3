"""Random numbers of a layer that are the same wherever the model is cut, and whoever runs the layer when.

The layers of a split model draw at the same time, from one generator: in an order that nobody knows, and another one
for each way of cutting. So every layer draws each micro-batch's numbers from a seed of its own, all of which follow
from one number that a step draws. A step that is repeated on fewer devices then drops what it dropped before.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx

__all__ = ["Seeds", "make_seeded", "new_key", "seeded"]

_here = threading.local()
_LOCK = threading.Lock()  # a device's generator is one for all threads
_SEED_BYTES = 7
# Operations that draw only if told so: where among their arguments that stands.
_DRAWS_IF = {"dropout": (2, "train"), "scaled_dot_product_attention": (4, "dropout_p")}


class Seeds(NamedTuple):
    """The seeds of one micro-batch of one step.

    Attributes
    ----------
    key : int
        Of the step; see `new_key`.
    microbatch : int
        Counted over all replicas.

    Examples
    --------
    >>> Seeds(7, 0).of(3) == Seeds(7, 0).of(3), Seeds(7, 0).of(3) == Seeds(7, 1).of(3)
    (True, False)
    """

    key: int
    microbatch: int

    def of(self, layer: int) -> int:
        """Return the seed of a layer of the model."""
        return _digest(self.key, self.microbatch, layer)


def new_key() -> int:
    """Draw the key of a step from PyTorch's generator, so that ``torch.manual_seed`` fixes it.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> first = new_key()
    >>> _ = torch.manual_seed(0)
    >>> new_key() == first
    True
    """
    return int(torch.randint(2**62, ()))


def make_seeded(module: Any) -> bool:
    """Let a graph's draws, and those of graphs in it, follow `seeded`; return whether there are any.

    Examples
    --------
    >>> def body(x):
    ...     return torch.ops.aten.dropout.default(x, 0.5, True)
    >>> def rest(x):
    ...     return torch.ops.aten.dropout.default(x, 0.5, False)
    >>> make_seeded(fx.symbolic_trace(body)), make_seeded(fx.symbolic_trace(rest))
    (True, False)
    """
    found = False
    for inner in (one for one in module.modules() if isinstance(one, fx.GraphModule)):
        for node in inner.graph.nodes:
            if node.op == "call_function" and _draws(node):
                node.args, node.target = (node.target, *node.args), _drawn
                inner.recompile()
            found |= node.target is _drawn
    return found


def _draws(node: fx.Node) -> bool:
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    if name not in _DRAWS_IF:
        return True
    at, word = _DRAWS_IF[name]
    return bool(node.args[at] if len(node.args) > at else node.kwargs.get(word, 0.0))


@contextlib.contextmanager
def seeded(seed: int, device: str | None) -> Iterator[None]:
    """Let the graphs that this thread runs draw from a seed, one operation after another.

    Parameters
    ----------
    seed : int
    device : str or None
        Where they run; None: on the CPU.

    Examples
    --------
    >>> dropout = fx.symbolic_trace(lambda x: torch.ops.aten.dropout.default(x, 0.5, True))
    >>> make_seeded(dropout)
    True
    >>> with seeded(3, None):
    ...     first = dropout(torch.ones(9))
    >>> with seeded(3, None):
    ...     torch.equal(first, dropout(torch.ones(9)))
    True
    """
    before = getattr(_here, "source", None)
    _here.source = _Source(seed, device)
    try:
        yield
    finally:
        _here.source = before


class _Source:
    """Where a thread's draws come from."""

    def __init__(self, seed: int, device: str | None) -> None:
        place = torch.device(device or "cpu")
        self.on_cuda = [place.index or 0] if place.type == "cuda" else []
        self.seed = seed
        self.drawn = 0

    def draw(self, operation: Any, arguments: Any, keywords: Any) -> Any:
        self.drawn += 1
        seed = _digest(self.seed, self.drawn)
        with _LOCK, torch.random.fork_rng(devices=self.on_cuda):
            torch.default_generator.manual_seed(seed)
            for index in self.on_cuda:
                torch.cuda.default_generators[index].manual_seed(seed)
            return operation(*arguments, **keywords)


def _drawn(operation: Any, *arguments: Any, **keywords: Any) -> Any:
    source: _Source | None = getattr(_here, "source", None)
    return operation(*arguments, **keywords) if source is None else source.draw(operation, arguments, keywords)


def _digest(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=_SEED_BYTES).digest())
