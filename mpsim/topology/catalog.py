"""The catalog: real devices and links, with the sources of their figures.

A link's effective latency (a message as a library delivers it) and its wire latency (the wire alone) are two
columns, a hundredfold apart; whoever asks for one that is not known gets an error and never the other.
"""

from __future__ import annotations

import csv
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mpsim import units
from mpsim.errors import MpsimError, unknown
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire

__all__ = [
    "CatalogDevice",
    "CatalogLink",
    "alike",
    "device",
    "device_names",
    "is_network",
    "link",
    "link_names",
    "parse_wire",
    "topology_device",
    "wire",
]

# What PyTorch calls a type → the catalog's column for it.
_PEAK = {
    "float64": "fp64_flop_per_s",
    "float32": "fp32_flop_per_s",
    "tf32": "tf32_flop_per_s",
    "float16": "fp16_flop_per_s",
    "bfloat16": "bf16_flop_per_s",
    "float8_e4m3fn": "fp8_flop_per_s",
    "float8_e5m2": "fp8_flop_per_s",
    "mxfp8": "mxfp8_flop_per_s",
    "float4": "fp4_flop_per_s",
    "nvfp4": "nvfp4_flop_per_s",
    "int8": "int8_op_per_s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogDevice:
    """A device as its data sheet has it; None where no figure was found.

    Attributes
    ----------
    reported : str
        What drivers and PyTorch call it, brand words left out, separated by ``;``, where that is not its name.
    memory_bytes : int
        The data sheet's GB as 1e9 bytes: a little less than most cards report.
    usable_memory_bytes : int or None
        What a card was seen to report.
    *_flop_per_s, int8_op_per_s : float or None
        Dense peak by type.
    matmul_fraction : float or None
        The part of the bfloat16 peak that the best large matmul was measured to reach (0 to 1).
    inside_link, inside_bytes_per_s, pair_bytes_per_s
        The link to its node's other devices: all ports, and to one other device, one direction.
    host_link, host_bytes_per_s, between_link, between_bytes_per_s
        To the host, and to other nodes.
    confidence : str
        A: read in a cited source, B: partly, C: recalled or estimated.
    """

    name: str
    reported: str = ""
    vendor: str
    year: int
    form: str
    memory_bytes: int
    usable_memory_bytes: int | None = None
    memory_type: str
    memory_bandwidth_bytes_per_s: float
    fp64_flop_per_s: float | None = None
    fp32_flop_per_s: float | None = None
    tf32_flop_per_s: float | None = None
    fp16_flop_per_s: float | None = None
    bf16_flop_per_s: float | None = None
    fp8_flop_per_s: float | None = None
    mxfp8_flop_per_s: float | None = None
    fp4_flop_per_s: float | None = None
    nvfp4_flop_per_s: float | None = None
    int8_op_per_s: float | None = None
    power_w: float | None = None
    matmul_fraction: float | None = None
    inside_link: str
    inside_bytes_per_s: float
    pair_bytes_per_s: float
    host_link: str
    host_bytes_per_s: float
    devices_per_node: int
    between_link: str
    between_bytes_per_s: float
    confidence: str
    source: str
    note: str = ""

    def peak_flop_per_s(self, dtype: str) -> float:
        """Return the dense peak for a type as PyTorch names it (and ``tf32``, ``mxfp8``, ``float4``, ``nvfp4``).

        Raises
        ------
        MpsimError
            The type is unknown, or the catalog has no figure for it on this device.

        Examples
        --------
        >>> device("A100-SXM4-80GB").peak_flop_per_s("bfloat16")
        312000000000000.0
        """
        peak = self.peak_or_none(dtype)
        if peak is None:
            have = ", ".join(name for name, column in _PEAK.items() if getattr(self, column) is not None)
            raise MpsimError(f"the catalog has no {dtype} peak for {self.name}, it has {have}: choose one of them")
        return peak

    def peak_or_none(self, dtype: str) -> float | None:
        """Return the dense peak for a type; None where the catalog has no figure.

        Raises
        ------
        MpsimError
            The type is unknown.

        Examples
        --------
        >>> device("A100-SXM4-80GB").peak_or_none("nvfp4") is None
        True
        """
        if dtype not in _PEAK:
            raise unknown("dtype", dtype, _PEAK)
        peak: float | None = getattr(self, _PEAK[dtype])
        return peak


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogLink:
    """A link as its data sheet has it, and what is reached of it.

    Attributes
    ----------
    bandwidth_bytes_per_s : float
        Data sheet, one direction of one device's port.
    reachable_fraction : float
        What real transfers reached of it (0 to 1).
    effective_latency_s : float
        Of one message from device to device as a collective library delivers it, software included.
    wire_latency_s : float or None
        Of one hop of the wire alone.
    """

    name: str
    bandwidth_bytes_per_s: float
    reachable_fraction: float
    effective_latency_s: float
    wire_latency_s: float | None = None
    scope: str
    confidence: str
    source: str
    note: str = ""

    @property
    def family(self) -> str:
        """What is before the number of its generation: ``nvlink`` of ``nvlink4``."""
        return re.split(r"_?v?\d", self.name)[0]


# How the scope of links between nodes begins.
_BETWEEN_NODES = ("NIC port", "per GPU", "TCP", "TPU pod to pod")

# Of those, by which GPUs of different nodes reach each other's memory.
_REMOTE_MEMORY = ("NIC port", "per GPU")

_Row = TypeVar("_Row", CatalogDevice, CatalogLink)


def _cell(text: str, hint: Any) -> Any:
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    return int(float(text)) if hint is int else hint(text)


@cache
def _table(kind: type[_Row], file: str) -> Mapping[str, _Row]:
    """Read one of the catalog's tables, keyed by lower-case name."""
    hints = typing.get_type_hints(kind)
    with Path(__file__).with_name(file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    made = (kind(**{f.name: _cell(r[f.name], hints[f.name]) for f in fields(kind) if r[f.name]}) for r in rows)
    return {row.name.lower(): row for row in made}


def _devices() -> Mapping[str, CatalogDevice]:
    return _table(CatalogDevice, "catalog_devices.csv")


def _links() -> Mapping[str, CatalogLink]:
    return _table(CatalogLink, "catalog_links.csv")


def _find(what: str, name: str, table: Mapping[str, _Row]) -> _Row:
    row = table.get(name.lower())
    if row is not None:
        return row
    within = [known.name for key, known in table.items() if name and name.lower() in key]
    if within:
        raise MpsimError(f"unknown {what} {name!r}; the catalog has {', '.join(within)}: write one of them")
    near = get_close_matches(name.lower(), table, n=1)
    if near:
        raise MpsimError(f"unknown {what} {name!r}; did you mean {table[near[0]].name!r}?")
    raise unknown(what, name, [known.name for known in table.values()])


def device_names() -> tuple[str, ...]:
    """Return the names of the catalog's devices.

    Examples
    --------
    >>> "H100-SXM5-80GB" in device_names()
    True
    """
    return tuple(row.name for row in _devices().values())


def link_names() -> tuple[str, ...]:
    """Return the names of the catalog's links.

    Examples
    --------
    >>> "nvlink4" in link_names()
    True
    """
    return tuple(row.name for row in _links().values())


def device(name: str) -> CatalogDevice:
    """Return a device of the catalog; case does not matter.

    Raises
    ------
    MpsimError
        There is none of that name.

    Examples
    --------
    >>> device("h100-sxm5-80gb").memory_bandwidth_bytes_per_s
    3350000000000.0
    """
    return _find("device", name, _devices())


def link(name: str) -> CatalogLink:
    """Return a link of the catalog; case does not matter.

    Raises
    ------
    MpsimError
        There is none of that name.

    Examples
    --------
    >>> nvlink = link("nvlink4")
    >>> nvlink.bandwidth_bytes_per_s, nvlink.effective_latency_s, nvlink.wire_latency_s
    (450000000000.0, 1e-05, 6e-07)
    """
    return _find("link", name, _links())


def is_network(name: str) -> bool:
    """Whether a link of that name joins nodes, rather than devices within one; of one unknown, not.

    Examples
    --------
    >>> is_network("ib_ndr"), is_network("nvlink4"), is_network("mine")
    (True, False, False)
    """
    row = _links().get(name.lower())
    return row is not None and row.scope.startswith(_BETWEEN_NODES)


def alike(name: str, other: str) -> bool:
    """Whether two links of the catalog are of one kind: one family, or both network cards that write remote memory.

    Examples
    --------
    >>> alike("nvlink5", "nvlink4"), alike("ib_hdr", "efa_v2_p5"), alike("eth_10g", "ib_ndr"), alike("xgmi", "mine")
    (True, True, False, False)
    """
    known = _links()
    if name.lower() not in known or other.lower() not in known:
        return False
    mine, its = known[name.lower()], known[other.lower()]
    return mine.family == its.family or all(one.scope.startswith(_REMOTE_MEMORY) for one in (mine, its))


def wire(name: str, latency: str = "effective") -> Wire:
    """Return a link of the catalog as a builder takes it.

    Parameters
    ----------
    name : str
        A link of the catalog.
    latency : str
        ``effective``: of a message from device to device, however many switches between; ``wire``: of each hop.

    Returns
    -------
    Wire
        Its bandwidth is the data sheet's times the reachable fraction.

    Raises
    ------
    MpsimError
        No such link, or no figure for its wire latency.

    Examples
    --------
    >>> wire("ib_hdr")
    Wire(bandwidth_bytes_per_s=22500000000.0, latency_s=2e-05, type='ib_hdr', per_message=True)
    >>> wire("ib_hdr", latency="wire").latency_s
    6e-07
    """
    row = link(name)
    if latency not in ("effective", "wire"):
        raise unknown("latency", latency, ("effective", "wire"))
    latency_s = row.effective_latency_s if latency == "effective" else row.wire_latency_s
    if latency_s is None:
        raise MpsimError(
            f"the catalog has no wire latency for {row.name}, its effective latency is"
            f" {units.format_duration(row.effective_latency_s)}: use that, or write {row.name}@2us with your own"
        )
    bandwidth = row.bandwidth_bytes_per_s * row.reachable_fraction
    return Wire(bandwidth, latency_s, row.name, per_message=latency == "effective")


def parse_wire(text: str | Wire) -> Wire:
    """Return the wire that a text stands for.

    Parameters
    ----------
    text : str or Wire
        ``nvlink4`` (effective latency), ``nvlink4@wire``, ``nvlink4@2us`` (your own latency for each hop), or
        ``50GB/s@2us``; a Wire is returned as it is.

    Raises
    ------
    MpsimError
        No such link, a bare number, or a bandwidth without a latency.

    Examples
    --------
    >>> parse_wire("50GB/s@2us")
    Wire(bandwidth_bytes_per_s=50000000000.0, latency_s=2e-06, type='', per_message=False)
    >>> parse_wire("nvlink4").per_message
    True
    """
    if isinstance(text, Wire):
        return text
    head, at, tail = text.partition("@")
    if head[:1].isdigit() or head[:1] in (".", "+", "-") or head.lower() == "inf":
        bandwidth = units.bandwidth(head)
        if not at:
            near = f"eth_{head.lower().removesuffix('gbe').strip()}g"
            known = f"; the catalog has {near}" if near in link_names() else ""
            raise MpsimError(f"link {text!r} has no latency: write '{head}@2us', or '{head}@0' for none{known}")
        return Wire(bandwidth, units.duration(tail, "latency"))
    if not at or tail in ("effective", "wire"):
        return wire(head, tail or "effective")
    return Wire(wire(head).bandwidth_bytes_per_s, units.duration(tail, "latency"), link(head).name)


def topology_device(name: str) -> Device:
    """Return a device of the catalog as a topology takes it; its memory is the usable one where that is known.

    Raises
    ------
    MpsimError
        There is none of that name.

    Examples
    --------
    >>> topology_device("A100-SXM4-40GB").memory_bytes
    40000000000
    """
    row = device(name)
    memory = row.memory_bytes if row.usable_memory_bytes is None else row.usable_memory_bytes
    return Device(name=row.name, type=row.name, memory_bytes=memory)
