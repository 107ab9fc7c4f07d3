"""Goodputs in files: ``mpsim.goodput/1``."""

from __future__ import annotations

from pathlib import Path

from mpsim import documents
from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.failures.lanes import PARTS
from mpsim.failures.outcome import Goodput

__all__ = ["load_goodput", "save_goodput"]

_NOUN, _VERSION = "goodput", 1


@checked
def save_goodput(path: str | Path | Goodput, found: Goodput | str | Path) -> None:
    """Write a goodput to a file, all its trials included, whole or not at all; the goodput may come first.

    Raises
    ------
    MpsimError
        The file cannot be written there.

    Examples
    --------
    >>> import os, tempfile
    >>> found = Goodput(workload="mlp", topology="pair", plan="dp=2", step_s=1.0, interval_s=4.0, interval_steps=4,
    ...                 horizon_s=8.0, useful_s=(6.0,), lost_s=(0.5,), checkpoint_s=(1.5,), restart_s=(0.0,),
    ...                 repair_s=(0.0,), slowed_s=(0.0,), stops=(1,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_goodput(os.path.join(folder, "goodput.json"), found)
    ...     load_goodput(os.path.join(folder, "goodput.json")) == found
    True
    """
    where, held = documents.in_order(path, found, Goodput)
    documents.write(where, _NOUN, _VERSION, held)


@checked
def load_goodput(path: str | Path) -> Goodput:
    """Read a goodput from a file of any version.

    Raises
    ------
    MpsimError
        No such file, not a goodput, a newer version, or trials that miss a part.

    Examples
    --------
    >>> load_goodput("missing.json")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no file 'missing.json'
    """
    found: Goodput = documents.read(path, _NOUN, _VERSION, Goodput)
    counts = {len(getattr(found, f"{name}_s")) for name in PARTS} | {len(found.stops)}
    if len(counts) > 1 or not found.stops or not (found.horizon_s > 0 and found.step_s > 0):
        raise MpsimError(f"{path}: its parts are not of the same trials: it was edited; make it again")
    return found
