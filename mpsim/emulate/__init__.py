"""The real thing: a split run on real processes, devices and links."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpsim.emulate.device import Device
    from mpsim.emulate.run import Emulation, emulate, emulate_collectives
    from mpsim.emulate.splitter import ModelSplitter
    from mpsim.emulate.trainer import ParallelTrainer

__all__ = ["Device", "Emulation", "ModelSplitter", "ParallelTrainer", "emulate", "emulate_collectives"]

_ROOMS = {
    "Device": "device",
    "Emulation": "run",
    "ModelSplitter": "splitter",
    "ParallelTrainer": "trainer",
    "emulate": "run",
    "emulate_collectives": "run",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use only."""
    if name in _ROOMS:
        return getattr(import_module(f"mpsim.emulate.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'mpsim.emulate' has no attribute {name!r}")
