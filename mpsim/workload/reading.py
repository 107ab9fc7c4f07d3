"""Text where a workload is due: the path of a file, or what is taken for one."""

from __future__ import annotations

from pathlib import Path

from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.workload.file import load_workload
from mpsim.workload.model import Workload
from mpsim.workload.zoo import ZOO

__all__ = ["read_workload"]


@checked
def read_workload(text: str) -> Workload:
    """Return the workload of a file that stands where a workload is due.

    Raises
    ------
    MpsimError
        As `load_workload`; of a model's name, that it must be traced first, and of a topology, that it is one.

    Examples
    --------
    >>> read_workload("gpt2")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: 'gpt2' is a model, not a workload file: mpsim trace gpt2 -o gpt2.json makes one
    """
    if text in ZOO and not Path(text).exists():
        raise MpsimError(f"{text!r} is a model, not a workload file: mpsim trace {text} -o {text}.json makes one")
    if ":" in text and not Path(text).exists() and not Path(text).suffix == ".json":
        raise MpsimError(f"{text!r} is a topology where a workload is due: give the workload first, the topology next")
    if not Path(text).suffix and not Path(text).exists():
        raise MpsimError(
            f"no file {text!r}: a workload is the path of one that mpsim trace wrote, such as mlp.json, and topologies"
            " come after it"
        )
    return load_workload(text)
