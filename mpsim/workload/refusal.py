"""Why a user's model, loss, factory or optimizer failed: the cause, the module that was running, the file and line."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

__all__ = ["cause_of"]

_MOST = 300  # letters of a message

_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|Cannot allocate memory|not enough memory|bad_alloc|_ALLOC_FAILED|"
    r"Unable to allocate",
    re.IGNORECASE,
)
_SPARSE = re.compile(r"does not support sparse gradients|sparse gradients? (is|are) not supported", re.IGNORECASE)
# What PyTorch raises where a tensor without a value is asked for one, and tells in the names of its operators.
_VALUES = ("DataDependentOutputException", "DynamicOutputShapeException", "GuardOnDataDependentSymNode")


def cause_of(error: BaseException, model: nn.Module | None = None) -> str:
    """Return one line on an exception that a user's code raised.

    Parameters
    ----------
    error : BaseException
        As it was caught, with its traceback.
    model : torch.nn.Module
        The model that was running, if there is one.

    Returns
    -------
    str
        The exception's class and message, the innermost module that was running, and the innermost line of the
        user's own code; what to do, where that is certain.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(5, 2))
    >>> try:
    ...     model(torch.ones(1, 8))
    ... except RuntimeError as error:
    ...     print(cause_of(error, model).partition(", at ")[0])
    RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x4 and 5x2), in 1 (Linear)
    """
    frames = list(_frames(error))
    where = [text for text in (_module(frames, model), _line(error, frames, model)) if text]
    return ", ".join([_message(error, frames), *where]) + _remedy(error, model)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Yield frames and their lines, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


# What happened


def _message(error: BaseException, frames: list[tuple[FrameType, int]]) -> str:
    name = type(error).__name__
    if name in _VALUES:
        operator = re.search(r"aten\.[\w.]+", str(error))
        which = f" ({operator[0]})" if operator else ""
        return f"{name}: the value of a tensor is asked for{which}, and tensors of shapes alone have none"
    lines = [" ".join(line.split()) for line in _own_words(str(error)).splitlines() if line.strip()]
    if not lines:
        line = linecache.getline(frames[-1][0].f_code.co_filename, frames[-1][1]).strip() if frames else ""
        return f"{name}: {line}" if line else name
    text = lines[0] if not lines[0].endswith(":") else " ".join(lines[:2])
    if text.startswith(f"{name}:") or text == name:
        return _cut(text)
    return _cut(f"{name}: {text}")


def _own_words(text: str) -> str:
    """Return the message of the error itself where another process's or replica's traceback is passed on."""
    if "Traceback (most recent call last)" not in text:
        return text
    last = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return last[-1] if last else text


def _cut(text: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


# Where


def _module(frames: list[tuple[FrameType, int]], model: nn.Module | None) -> str:
    """Name the innermost module of the model that was running."""
    paths = {} if model is None else {id(module): path for path, module in model.named_modules()}
    for frame, _ in reversed(frames):
        owner = _owner(frame)
        if id(owner) in paths:
            return f"in {paths[id(owner)] or 'the model'} ({type(owner).__name__})"
    return ""


def _owner(frame: FrameType) -> Any:
    """Return the module whose method a frame runs."""
    owner = frame.f_locals.get("self")
    return owner if isinstance(owner, nn.Module) else None


def _line(error: BaseException, frames: list[tuple[FrameType, int]], model: nn.Module | None) -> str:
    """Name the innermost line of the user's own code, or of the library that the model is from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"at {_short(error.filename)}:{error.lineno}"
    own = _files_of(model)
    named = [(frame.f_code.co_filename, line) for frame, line in frames]
    named += [(file, int(line)) for file, line in re.findall(r'File "([^"]+)", line (\d+)', str(error))]
    named = [(file, line) for file, line in named if not _is_machinery(file)]
    of_the_user = [(file, line) for file, line in named if file in own or not _is_installed(file)]
    for file, line in reversed(of_the_user or named):
        return f"at {_short(file)}:{line}"
    return ""


def _files_of(model: nn.Module | None) -> set[str]:
    """Return the files in which the classes of a model's modules are defined."""
    kinds = set() if model is None else {type(module) for module in model.modules()}
    files = {getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in kinds}
    return {str(file) for file in files if file}


def _folder(module: Any) -> str:
    return str(Path(inspect.getfile(module)).parent) + os.sep


_OURS = (str(Path(__file__).parents[1]) + os.sep, _folder(torch))
_STANDARD = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED) or f"{os.sep}site-packages{os.sep}" in file


def _is_machinery(file: str) -> bool:
    """Whether a file is PyTorch's, mpsim's or Python's own, or none at all."""
    if file.startswith(_OURS) or file.startswith("<frozen"):
        return True
    return file.startswith(_STANDARD) and not _is_installed(file)


def _short(file: str) -> str:
    """Return a path from here where it is the user's own and lies below, and else the file's name."""
    here = os.path.relpath(file) if os.path.isabs(file) else file
    return os.path.basename(file) if here.startswith("..") or _is_installed(file) else here


# What to do


def _remedy(error: BaseException, model: nn.Module | None) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)):
        return "; try a smaller micro-batch"
    if _SPARSE.search(str(error)):
        names = [path for path, module in model.named_modules() if getattr(module, "sparse", False)] if model else []
        which = f" (those of {names[0] or 'the model'} are)" if names else ""
        return f"; take an optimizer for sparse gradients{which}: sgd or sparse-adam"
    return ""
