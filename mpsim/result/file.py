"""Results in files: ``mpsim.result/2``, the spans as columns."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from mpsim import documents
from mpsim.errors import MpsimError
from mpsim.result.model import Result, Spans

__all__ = ["load_result", "save_result"]

_NOUN, _VERSION = "result", 2
# Version 2 lets a real run say that it has no step on free links; every file of version 1 is one of version 2.
_UPGRADES = {1: lambda body: body}


def save_result(path: str | Path, result: Result, *, spans: bool = True) -> None:
    """Write a result to a file, whole or not at all.

    Parameters
    ----------
    path : path
        The file to write, ``.json`` by custom.
    result : Result
        What to write.
    spans : bool
        False leaves the spans out: the numbers stay, the file is small, and a timeline can no longer be drawn.

    Raises
    ------
    MpsimError
        The file cannot be written there.

    Examples
    --------
    >>> import os, tempfile
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_result(os.path.join(folder, "result.json"), result)
    ...     load_result(os.path.join(folder, "result.json")) == result
    True
    """
    kept = result if spans else dataclasses.replace(result, spans=Spans())
    documents.write(path, _NOUN, _VERSION, kept)


def load_result(path: str | Path) -> Result:
    """Read a result from a file of any version.

    Raises
    ------
    MpsimError
        No such file, not a result, a newer version, or values that no result can hold.

    Examples
    --------
    >>> load_result("no-such-result.json")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no file 'no-such-result.json'...
    """
    result: Result = documents.read(path, _NOUN, _VERSION, Result, _UPGRADES)
    try:
        _check_times(result)
        _check_spans(result.spans, len(result.devices))
    except MpsimError as error:
        raise MpsimError(f"{path}: {error}; the file was edited, make it again") from None
    return result


def _check_times(result: Result) -> None:
    if not result.trial_step_s:
        raise MpsimError("trial_step_s is empty, expected at least one step")
    for name in ("step_s", "free_step_s", "baseline_step_s"):
        if getattr(result, name) is not None:
            _check_seconds(name, getattr(result, name))
    for seconds in result.trial_step_s:
        _check_seconds("trial_step_s", seconds)


def _check_seconds(name: str, seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise MpsimError(f"{name} holds {seconds}, expected seconds, zero or more")


def _check_spans(spans: Spans, n_devices: int) -> None:
    lengths = {field.name: len(getattr(spans, field.name)) for field in dataclasses.fields(spans)}
    for column, length in lengths.items():
        if length != lengths["name"]:
            raise MpsimError(f"spans have {lengths['name']} names and {length} entries in {column!r}")
    for name, devices in zip(spans.name, spans.devices, strict=True):
        if devices and not 0 <= min(devices) <= max(devices) < n_devices:
            raise MpsimError(f"span {name!r} is on device {max(devices)}, the result has {n_devices}")
    for name, start_s, end_s in zip(spans.name, spans.start_s, spans.end_s, strict=True):
        if not 0 <= start_s <= end_s < math.inf:
            raise MpsimError(f"span {name!r} runs from {start_s} s to {end_s} s")
