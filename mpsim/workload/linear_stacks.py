"""Which Linear layers of a model come in pairs, found by running it on fake tensors and looking at who feeds whom.

::

    x ── fc1 ── relu ── fc2 ── …          x ─┬─ gate ── silu ─┬─ mul ── down ── …
         colwise        rowwise              └─ up ───────────┘
                                                colwise                 rowwise

Between the two nothing may stand that reads several features at once, such as a norm or a softmax.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mpsim.workload.example import Example
from mpsim.workload.shapes import ShapesMode, faked, without_logs

__all__ = ["linear_pairs"]

# Operations, by the names of their gradients, that leave the features of their input apart from each other.
_ELEMENTWISE = {"Add", "Alias", "Clamp", "Clone", "Div", "Exp", "FusedDropout", "Mul", "NativeDropout", "Neg", "Pow"}
_ELEMENTWISE |= {"ReshapeAlias", "Rsub", "Sub", "ToCopy", "UnsafeView", "View"}
_ELEMENTWISE |= {"Celu", "Elu", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "LogSigmoid", "Mish"}
_ELEMENTWISE |= {"Relu", "Selu", "Sigmoid", "Silu", "Softplus", "Tanh", "Threshold"}


def linear_pairs(example: Example) -> dict[str, str]:
    """Return the Linear layers of a model that feed each other, first ones colwise and second ones rowwise.

    A Linear that is called more often than once, or fed by one that is the second of a pair, begins or stays alone.

    Examples
    --------
    >>> import torch
    >>> mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> linear_pairs(Example(model=mlp, inputs=(torch.ones(3, 4),)))
    {'0': 'colwise', '2': 'rowwise'}
    """
    styles: dict[str, str] = {}
    for path, sources in _fed(example).items():
        if sources and path not in styles and not styles.keys() & sources:
            styles |= dict.fromkeys(sorted(sources), "colwise") | {path: "rowwise"}
    return styles


def _fed(example: Example) -> dict[str, frozenset[str]]:
    """Return each Linear that is called once, in order of calls, with the Linears that alone feed it."""
    copy = faked(example, ShapesMode(allow_non_fake_inputs=True))
    made: dict[Any, str] = {}
    read: dict[str, Any] = {}
    often: set[str] = set()

    def watch(path: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if path in read:
                often.add(path)
            read[path] = inputs[0].grad_fn
            if output.grad_fn is not None:
                made[output.grad_fn] = path

        return hook

    linears = [(path, module) for path, module in copy.model.named_modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(watch(path)) for path, module in linears]
    try:
        with without_logs(), next(copy.model.parameters()).fake_mode:
            copy.model(*copy.inputs, **copy.keywords)
    finally:
        for handle in handles:
            handle.remove()
    fed = {path: _sources(node, made) for path, node in read.items() if path not in often}
    return {path: sources for path, sources in fed.items() if not sources & often}


def _sources(node: Any, made: dict[Any, str]) -> frozenset[str]:
    """Return the Linears whose outputs are all that a tensor is made of, feature by feature; none if it is not so."""
    found, waiting, seen = set(), [node], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in made:
            found.add(made[one])
        elif one is None or re.sub(r"Backward\d*$", "", one.name().split("::")[-1]) not in _ELEMENTWISE:
            return frozenset()
        else:
            waiting += [before for before, _ in one.next_functions if before is not None]
    return frozenset(found)
