"""Workloads in files: ``mpsim.workload/3``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpsim import documents
from mpsim.calls import checked
from mpsim.workload.model import Workload

__all__ = ["VERSION", "load_workload", "save_workload"]

VERSION = 3


@checked
def save_workload(path: str | Path | Workload, workload: Workload | str | Path) -> None:
    """Write a workload, whole or not at all; the workload may come first.

    Raises
    ------
    MpsimError
        The file cannot be written there.

    Examples
    --------
    >>> import tempfile
    >>> from mpsim.workload.model import Layer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_workload(f"{folder}/w.json", Workload(name="w", layers=(Layer.given("a", forward_s=1, backward_s=2),)))
    ...     load_workload(f"{folder}/w.json").name
    'w'
    """
    where, held = documents.in_order(path, workload, Workload)
    documents.write(where, "workload", VERSION, held)


@checked
def load_workload(path: str | Path) -> Workload:
    """Read a workload of any version ever written.

    Raises
    ------
    MpsimError
        No such file, a truncated or edited one, another schema or a newer version.

    Examples
    --------
    >>> import tempfile
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_workload(f"{folder}/one.json", work)
    ...     load_workload(f"{folder}/one.json") == work
    True
    """
    found: Workload = documents.read(path, "workload", VERSION, Workload, {1: _same, 2: _same})
    return found


def _same(body: dict[str, Any]) -> dict[str, Any]:
    """Later versions only add.

    Version 2: a host clock, accumulation, transients, precision, notes. Version 3: splits by cp, ep and sequence, axes
    of collectives and when they are made, gradients of experts and partial ones.
    """
    return body
