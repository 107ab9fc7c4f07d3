"""Which device of the catalog a trace was made on: drivers and PyTorch have names of their own for them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mpsim.scaling import plain_name
from mpsim.topology.catalog import device, device_names

__all__ = ["catalog_name", "same_device"]

# PyTorch's MI250X is one of the two dies that the catalog's entry has.
_OTHERWISE = ("amd instinct mi250x",)


@cache
def _known() -> Mapping[str, str]:
    """Return the catalog's names by every plain spelling."""
    entries = [device(name) for name in device_names()]
    spelled = [(text, one.name) for one in entries for text in (one.name, *one.reported.split(";")) if text]
    return {plain_name(text): name for text, name in spelled}


def catalog_name(reported: str) -> str | None:
    """Return the catalog's name of a device as a driver or PyTorch reports it; None of one that it has not.

    Nothing is guessed: a name that could be two devices of the catalog, or a near relative of one, is none.

    Examples
    --------
    >>> catalog_name("NVIDIA H200"), catalog_name("NVIDIA A100 80GB PCIe"), catalog_name("h100-sxm5-80gb")
    ('H200-SXM-141GB', 'A100-PCIe-80GB', 'H100-SXM5-80GB')
    >>> catalog_name("AMD EPYC 9V74 80-Core Processor"), catalog_name("NVIDIA H200 NVL"), catalog_name("A100")
    (None, None, None)
    """
    if reported.lower().strip().startswith(_OTHERWISE):
        return None
    return _known().get(plain_name(reported))


def same_device(one: str, other: str) -> bool:
    """Whether two names are of the same device, of the catalog or not.

    Examples
    --------
    >>> same_device("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"), same_device("AMD EPYC", "amd epyc")
    (True, True)
    >>> same_device("NVIDIA H200", "H100-SXM5-80GB")
    False
    """
    if one.lower().strip() == other.lower().strip():
        return True
    found = catalog_name(one)
    return found is not None and found == catalog_name(other)
