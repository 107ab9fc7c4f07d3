"""Why a model could not be exported, in one line: the place in the model's own code, and the cause."""

from __future__ import annotations

import itertools
import linecache
import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mpsim.errors import MpsimError

__all__ = ["place_in_model", "place_of_node", "refusal"]

_OWN = Path(__file__).resolve().parents[2]
_TORCH, _PYTHON = Path(torch.__file__).resolve().parent, Path(sysconfig.get_path("stdlib")).resolve()
_DEPENDS = "the path that forward takes depends on the values of tensors, and a graph holds one path for all batches"
# What torch.export says, and what it means for the model.
_CAUSES = (
    (r"[Dd]ata[-_ ]?dependent|\bu\d+\b|Dynamic(Output|Shape)|GuardOnDataDependent", _DEPENDS),
    (r"vmap|functorch|escaped", "forward calls a transform of torch.func, such as vmap"),
)


def refusal(error: Exception, model: str, cause: str = "") -> MpsimError:
    """Return the error of a model that cannot be exported, for a cause that is known or else read off the error.

    Examples
    --------
    >>> str(refusal(RuntimeError("no such thing"), "Net"))
    'Net cannot be exported: RuntimeError: no such thing'
    """
    place = "" if cause else _in_words(_innermost(traceback.extract_tb(error.__traceback__)))
    return MpsimError(f"{model} cannot be exported{place}: {cause or _cause(error)}")


def _cause(error: Exception) -> str:
    name, text = type(error).__name__, str(error)
    known = next((cause for pattern, cause in _CAUSES if re.search(pattern, f"{name}: {text[:400]}")), None)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return known or f"{name}: {lines[0][:200] if lines else 'no message'}"


def place_in_model() -> str:
    """Return where in the code of a model, which mpsim has called, this is called from; empty outside of one.

    Examples
    --------
    >>> place_in_model()
    ''
    """

    def is_own(frame: traceback.FrameSummary) -> bool:
        return Path(frame.filename).is_relative_to(_OWN)

    frames = list(itertools.dropwhile(is_own, reversed(traceback.extract_stack())))
    inside = list(itertools.takewhile(lambda frame: not is_own(frame), frames))
    return _in_words(_innermost(inside[::-1])) if len(inside) < len(frames) else ""


def place_of_node(node: Any) -> str:
    r"""Return where in a model's code an operation of an exported graph was called, empty if the graph does not say.

    Examples
    --------
    >>> node = torch.fx.Graph().placeholder("x")
    >>> node.meta["stack_trace"] = 'File "/home/me/net.py", line 7, in forward\n    return x.add_(1)'
    >>> place_of_node(node)
    ', at net.py:7 (`return x.add_(1)`)'
    """
    found = re.findall(r'File "(.+?)", line (\d+), in (.*)\n\s*(.*)', node.meta.get("stack_trace") or "")
    return _in_words(_innermost([traceback.FrameSummary(at[0], int(at[1]), at[2], line=at[3]) for at in found]))


def _innermost(frames: Sequence[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """Return the innermost frame in the code of a model: not PyTorch's, Python's or our own."""
    return next((one for one in reversed(frames) if _is_the_models(one.filename)), None)


def _is_the_models(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    inside_python = path.is_relative_to(_PYTHON) and "site-packages" not in path.parts
    return not (path.is_relative_to(_OWN) or path.is_relative_to(_TORCH) or inside_python)


def _in_words(frame: traceback.FrameSummary | None) -> str:
    if frame is None:
        return ""
    line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip().splitlines()
    return f", at {Path(frame.filename).name}:{frame.lineno}" + (f" (`{line[0][:80]}`)" if line else "")
