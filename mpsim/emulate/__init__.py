"""The real thing: a split run on real processes, devices and links."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpsim.emulate.device import Device
    from mpsim.emulate.splitter import ModelSplitter
    from mpsim.emulate.trainer import ParallelTrainer

__all__ = ["Device", "ModelSplitter", "ParallelTrainer"]

_ROOMS = {"Device": "device", "ModelSplitter": "splitter", "ParallelTrainer": "trainer"}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use only."""
    if name in _ROOMS:
        return getattr(import_module(f"mpsim.emulate.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'mpsim.emulate' has no attribute {name!r}")
