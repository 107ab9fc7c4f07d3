"""Results in files: ``mpsim.result/7``, the spans as columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mpsim import documents
from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.result.check import check_result
from mpsim.result.model import Result, Spans

__all__ = ["load_result", "save_result"]

_NOUN, _VERSION = "result", 7
# Version 2 lets a real run say that it has no step on an ideal network, version 3 says which algorithm was chosen for
# collectives and how many went beyond what was measured, version 4 has hosts that launch, steps back to back, more
# holders of memory, and what may make it wrong, version 5 memory by holder over time, version 6 devices that stand for
# others, version 7 what a sample is in tokens and FLOPs; each older file is one of the next version as it stands.
_UPGRADES = dict.fromkeys((1, 2, 3, 4, 5, 6), lambda body: body)


@checked
def save_result(path: str | Path | Result, result: Result | str | Path, *, spans: bool = True) -> None:
    """Write a result to a file, whole or not at all.

    Parameters
    ----------
    path : path
        The file to write, ``.json`` by custom.
    result : Result
        What to write; it may come first.
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
    where, held = documents.in_order(path, result, Result)
    kept = held if spans else dataclasses.replace(held, spans=Spans())
    documents.write(where, _NOUN, _VERSION, kept)


@checked
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
        check_result(result)
    except MpsimError as error:
        raise MpsimError(f"{path}: {error}; the file was edited, make it again") from None
    return result
