"""What a capture does otherwise than its model, and why: the one line of a refusal."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import CheckpointFunction

from mpsim.emulate.capture.functions import Functions, name_of
from mpsim.emulate.capture.state import State
from mpsim.errors import MpsimError

__all__ = ["Refusals", "norm", "same"]

_PATH = (
    "under torch.export forward takes another path than in training: look for torch.compiler.is_exporting() or"
    " is_compiling(), torch.jit.is_tracing(), or what is looked up while it runs"
)
_UNSEEN = "no operation of the capture reads it: is it read through .data, or by torch.func.functional_call?"
_CHECKPOINT = (
    "torch.utils.checkpoint with use_reentrant=True hides what it runs again from the capture: give it"
    " use_reentrant=False"
)
_REGISTER = "a capture holds it as it was: make it a buffer (register_buffer)"


class Refusals:
    """The refusals of one model.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    state : State
        Of it, which knows what was written where.
    functions : Functions
        Those of its autograd graph.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Linear(1, 1)
    >>> str(Refusals(model, State(model), Functions([])).number_changed("calls", 0, 1))
    'Linear cannot be split: forward changes its attribute calls from 0 to 1: a capture holds it as it was: ...'
    """

    def __init__(self, model: Any, state: State, functions: Functions) -> None:
        self._model, self._state, self._functions = model, state, functions

    def gradient(self, name: str, leaf: Any, what: str, unseen: bool = False) -> MpsimError:
        """Return that of a parameter or input whose gradient differs; unseen: nothing in the capture reads it."""
        return self._of(f"{name} {what}", _UNSEEN if unseen else self._why(leaf))

    def outputs(self, what: str) -> MpsimError:
        """Return that of an output or a loss that differs."""
        return self._of(what, self._why(None))

    def state(self, name: str, what: str) -> MpsimError:
        """Return that of a parameter or buffer that is not moved as by the model."""
        return self._of(f"{name} {what}", f"forward writes it in place{self._place(name)}")

    def attribute(self, name: str) -> MpsimError:
        """Return that of a tensor that is state, though nothing says so."""
        return self._of(f"forward moves its attribute {name}{self._place(name)}, in place or by another", _REGISTER)

    def number_changed(self, name: str, before: Any, after: Any) -> MpsimError:
        """Return that of a number or list that each forward changes."""
        return self._of(f"forward changes its attribute {name} from {before} to {after}", _REGISTER)

    def drawn(self, module: str) -> MpsimError:
        """Return that of numbers that are drawn elsewhere than from PyTorch."""
        return self._of(
            f"forward draws from {module}", "a capture holds the one number that it got: draw with torch.rand instead"
        )

    def backward(self, error: Exception) -> MpsimError:
        """Return that of a model whose own backward fails."""
        return self._of(
            f"its backward fails with {type(error).__name__} ({str(error).splitlines()[0][:120]})", self._why(None)
        )

    @property
    def checkpoint(self) -> MpsimError | None:
        """That of a reentrant checkpoint, if there is one: PyTorch has no gradients by parameter through it."""
        if CheckpointFunction in self._functions.classes():
            return self._of("it has regions that run again in backward", _CHECKPOINT)
        return None

    def _of(self, what: str, why: str) -> MpsimError:
        return MpsimError(f"{type(self._model).__name__} cannot be split: {what}: {why}")

    def _why(self, leaf: Any) -> str:
        kinds = self._functions.classes(leaf)
        if kinds:
            names = ", ".join(name_of(kind) for kind in kinds[:3])
            return (
                f"the capture drops the own backward of the torch.autograd.Function {names}: write it of PyTorch's own"
                " operations (a straight-through estimator is x + (y - x).detach())"
            )
        written = [name for name in self._state.written_at if name not in dict(self._model.named_buffers())]
        if written:
            return f"forward writes {written[0]} in place{self._place(written[0])}"
        return _PATH

    def _place(self, name: str) -> str:
        return self._state.written_at.get(name, "")


def norm(value: Any) -> float:
    """Return the 2-norm of a tensor of any type.

    Examples
    --------
    >>> norm(torch.tensor([3, 4]))
    5.0
    """
    dense = value.detach().to_dense() if value.is_sparse else value.detach()
    return float(torch.linalg.vector_norm(dense if dense.is_floating_point() or dense.is_complex() else dense.double()))


def same(found: Any, expected: Any) -> bool:
    """Whether two values are the same but for rounding: relative to the norm of the expected one, nan being nan.

    Examples
    --------
    >>> same(torch.tensor([1.0, float("nan")]), torch.tensor([1.000001, float("nan")])), same(3, 4)
    (True, False)
    """
    if not isinstance(found, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return type(found) is type(expected) and bool(found == expected)
    if found.shape != expected.shape or found.dtype != expected.dtype or found.layout != expected.layout:
        return False
    if not (found.is_floating_point() or found.is_complex()):
        return bool((found == expected).all())
    if found.is_sparse:
        found, expected = found.to_dense(), expected.to_dense()
    alike = (found == expected) | ((found != found) & (expected != expected))
    size = norm(torch.where(expected.isfinite(), expected, 0))
    return norm(torch.where(alike, 0, found - expected)) <= tolerance(expected) * size + 1e-30


def tolerance(value: Any) -> float:
    """Return by what share of its norm a value may differ that was summed in another order.

    Examples
    --------
    >>> tolerance(torch.ones(1, dtype=torch.double)) < 1e-7 < tolerance(torch.ones(1)) < 1e-3
    True
    """
    return float(torch.finfo(value.dtype).eps ** 0.5)
