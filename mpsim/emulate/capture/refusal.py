"""Why a model could not be exported, in one line: the place in the model's own code, and the cause."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from pathlib import Path

import torch

import mpsim
from mpsim.errors import MpsimError

__all__ = ["place_of", "refusal", "user_frame"]

_NOT_THE_MODELS = tuple(
    str(Path(folder).resolve())
    for folder in (Path(torch.__file__).parent, Path(mpsim.__file__).parent, sysconfig.get_path("stdlib"))
)
_DEPENDS = "the path that forward takes depends on the values of tensors, and a graph holds one path for all batches"
# What torch.export says, and what it means for the model.
_CAUSES = (
    (r"[Dd]ata[-_ ]?dependent|\bu\d+\b|Dynamic(Output|Shape)|GuardOnDataDependent", _DEPENDS),
    (
        r"fake tensor in the exported program constant",
        "forward writes a tensor through .data, or calls autograd itself",
    ),
    (r"vmap|functorch|escaped", "forward calls a function transform of torch.func, such as vmap"),
)


def refusal(error: Exception, model: str) -> MpsimError:
    """Return the error of a model that cannot be exported.

    Examples
    --------
    >>> str(refusal(RuntimeError("no such thing"), "Net"))
    'Net cannot be exported: RuntimeError: no such thing'
    """
    frames = traceback.extract_tb(error.__traceback__)
    frame = user_frame(frames)
    return MpsimError(f"{model} cannot be exported{f', at {place_of(frame)}' if frame else ''}: {_cause(error)}")


def user_frame(frames: list[traceback.FrameSummary] | traceback.StackSummary) -> traceback.FrameSummary | None:
    """Return the innermost frame in the code of a model: not PyTorch's, Python's or our own.

    Examples
    --------
    >>> user_frame([traceback.FrameSummary("/home/me/net.py", 7, "forward")]).lineno
    7
    """
    return next((one for one in reversed(frames) if _is_the_models(one.filename)), None)


def place_of(frame: traceback.FrameSummary) -> str:
    """Return file, line and what stands there.

    Examples
    --------
    >>> place_of(traceback.FrameSummary("/home/me/net.py", 7, "forward", line="return x"))
    'net.py:7 (`return x`)'
    """
    line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip().splitlines()
    return f"{Path(frame.filename).name}:{frame.lineno}" + (f" (`{line[0][:80]}`)" if line else "")


def _is_the_models(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = str(Path(filename).resolve())
    inside_python = path.startswith(_NOT_THE_MODELS[2]) and "site-packages" not in path
    return not (path.startswith(_NOT_THE_MODELS[:2]) or inside_python)


def _cause(error: Exception) -> str:
    name, text = type(error).__name__, str(error)
    known = next((cause for pattern, cause in _CAUSES if re.search(pattern, f"{name}: {text[:400]}")), None)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return known or f"{name}: {lines[0][:200] if lines else 'no message'}"
