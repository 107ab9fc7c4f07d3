"""What the tracer ran on: the device's name and memory, and the software."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from mpsim.documents import Provenance, made_now

__all__ = ["device_name", "memory_bytes", "provenance"]


def device_name(device: str) -> str:
    """Return what a device is called, such as ``"NVIDIA H200"``.

    Examples
    --------
    >>> device_name("cpu") != ""
    True
    """
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return _cpu_name()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine() or "CPU")


def memory_bytes(device: str) -> int:
    """Return a device's memory, 0 if it cannot be told.

    Examples
    --------
    >>> memory_bytes("cpu") >= 0
    True
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def provenance(model: str) -> Provenance:
    """Return how a trace was made.

    Examples
    --------
    >>> provenance("gpt2").made_by.split()[0]
    'mpsim'
    """
    return replace(
        made_now(f"mpsim.trace({model!r})"),
        machine=f"{platform.system()} {platform.machine()}, {_cpu_name()}, {os.cpu_count()} cores",
        software=", ".join(
            [f"python {platform.python_version()}", *(f"{p} {_version(p)}" for p in ("torch", "transformers"))]
        ),
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
