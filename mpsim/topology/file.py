"""Topology files: what save_topology writes, and what a person may write instead.

By hand, a device may take its memory from the catalog or as text, and a link its bandwidth and latency::

    {"schema": "mpsim.topology/5", "name": "two boxes", "switches": ["sw"],
     "devices": [{"name": "a", "device": "A100-SXM4-40GB"}, {"name": "b", "memory": "24 GiB", "speed": 0.5}],
     "links": [{"source": "a", "target": "sw", "both_ways": true, "bandwidth": "50 GB/s", "latency": "2 us"},
               {"source": "b", "target": "sw", "both_ways": true, "link": "eth_10g@25us"}]}
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mpsim import documents, units
from mpsim.calls import checked
from mpsim.documents import Provenance
from mpsim.errors import MpsimError, unknown
from mpsim.topology.catalog import parse_wire, topology_device
from mpsim.topology.costs import CollectiveCost
from mpsim.topology.model import Device, Link, Topology

__all__ = ["load_topology", "save_topology"]

_VERSION = 5
# Version 2 lets a device say what its send buffer holds, version 3 which switches reduce and what collectives cost,
# version 4 what a device's speed is of, version 5 where its host is; each older file is one of the next version as it
# stands.
_UPGRADES = dict.fromkeys((1, 2, 3, 4), lambda body: body)
_Fields = dict[str, Any]
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A topology as it may stand in a file: devices and links in any of their spellings."""

    name: str
    devices: tuple[dict, ...]  # type: ignore[type-arg]
    switches: tuple[str, ...] = ()
    links: tuple[dict, ...] = ()  # type: ignore[type-arg]
    provenance: Provenance = Provenance()
    reducing: tuple[str, ...] = ()
    costs: tuple[CollectiveCost, ...] = ()


@checked
def save_topology(path: str | Path | Topology, topology: Topology | str | Path) -> None:
    """Write a topology as ``mpsim.topology/5``, whole or not at all; the topology may come first.

    Raises
    ------
    MpsimError
        The file cannot be written there.

    Examples
    --------
    >>> import tempfile
    >>> from mpsim.topology.builders import ring
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_topology(folder + "/ring.json", ring(4, link="50GB/s@2us"))
    ...     load_topology(folder + "/ring.json") == ring(4, link="50GB/s@2us")
    True
    """
    where, held = documents.in_order(path, topology, Topology)
    documents.write(where, "topology", _VERSION, held)


@checked
def load_topology(path: str | Path) -> Topology:
    """Read a topology that was saved, or written by hand.

    Raises
    ------
    MpsimError
        No such file, not a topology file, a bare number where a unit is due, a name the catalog has not, or a graph
        that is none (see Topology).

    Examples
    --------
    >>> load_topology("nowhere/ring.json")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: no file 'nowhere/ring.json': there is no folder 'nowhere'
    """
    written: _Written = documents.read(path, "topology", _VERSION, _Written, _UPGRADES)
    switches = frozenset(written.switches)
    try:
        return Topology(
            name=written.name,
            devices=tuple(_device(one, f"devices[{i}]") for i, one in enumerate(written.devices)),
            switches=written.switches,
            links=tuple(link for i, one in enumerate(written.links) for link in _links(one, f"links[{i}]", switches)),
            provenance=written.provenance,
            reducing=written.reducing,
            costs=written.costs,
        )
    except MpsimError as error:
        raise MpsimError(f"{path}: {error}") from None


_OF_DEVICE = (
    "name",
    "device",
    "type",
    "memory",
    "memory_bytes",
    "speed",
    "speed_of",
    "send_buffer_bytes",
    "post_s",
    "hop_s",
    "overlap_slowdown",
    "host",
)
_OF_LINK = (
    "source",
    "target",
    "both_ways",
    "link",
    "bandwidth",
    "latency",
    "bandwidth_bytes_per_s",
    "latency_s",
    "type",
)


def _check_names(written: _Fields, known: tuple[str, ...], where: str) -> None:
    for name in written:
        if name not in known:
            raise MpsimError(f"{where}: {unknown('field', name, known)}")


def _device(written: _Fields, where: str) -> Device:
    _check_names(written, _OF_DEVICE, where)
    given = _with_units(written, where, {"memory": ("memory_bytes", units.size)})
    if "device" in given:
        like = _named(topology_device, given.pop("device"), f"{where}.device")
        given = {"type": like.type, "memory_bytes": like.memory_bytes} | given
    device: Device = documents.decode(Device, given, where)
    return device


def _links(written: _Fields, where: str, switches: Container[str]) -> tuple[Link, ...]:
    """Return one link, or two where it is written to go both ways."""
    _check_names(written, _OF_LINK, where)
    given = dict(written)
    both_ways = documents.decode(bool, given.pop("both_ways", False), f"{where}.both_ways")
    given = _like(given, where, switches) if "link" in given else _measured(given, where)
    link: Link = documents.decode(Link, given, where)
    if not both_ways:
        return (link,)
    back: Link = documents.decode(Link, given | {"source": link.target, "target": link.source}, where)
    return link, back


def _measured(given: _Fields, where: str) -> _Fields:
    """Return a link's fields with its bandwidth and latency in SI units; text needs both."""
    if "bandwidth" in given and not {"latency", "latency_s"} & given.keys():
        raise MpsimError(f'{where}: no latency: write "latency": "2 us", or "latency": 0 for none')
    if not {"bandwidth", "bandwidth_bytes_per_s"} & given.keys():
        raise MpsimError(f'{where}: no bandwidth: write "bandwidth": "50 GB/s", or "link" with a catalog name')
    spelled = {"bandwidth": ("bandwidth_bytes_per_s", units.bandwidth), "latency": ("latency_s", units.duration)}
    return _with_units(given, where, spelled)


def _like(given: _Fields, where: str, switches: Container[str]) -> _Fields:
    """Return the fields of a link that is written as a catalog's, or as ``"50GB/s@2us"``."""
    rivals = sorted(given.keys() & {"bandwidth", "latency", "bandwidth_bytes_per_s", "latency_s"})
    if rivals:
        raise MpsimError(f"{where}: 'link' and {rivals[0]!r} are both given: leave one out, or write nvlink4@2us")
    wire = _named(parse_wire, given.pop("link"), f"{where}.link")
    ends = [documents.decode(str, given.get(end, ""), f"{where}.{end}") for end in ("source", "target")]
    share = (wire, wire.end(), wire.trunk())[sum(end in switches for end in ends)]
    numbers = {"bandwidth_bytes_per_s": share.bandwidth_bytes_per_s, "latency_s": share.latency_s}
    return {"type": wire.type} | given | numbers


def _named(find: Callable[[str], _Found], name: Any, where: str) -> _Found:
    """Return what a name stands for; the error says where it was written."""
    try:
        return find(documents.decode(str, name, "text"))
    except MpsimError as error:
        raise MpsimError(f"{where}: {error}") from None


def _with_units(written: _Fields, where: str, spelled: dict[str, tuple[str, Callable[..., float]]]) -> _Fields:
    """Return the fields with each text with a unit as the SI field it stands for."""
    given = dict(written)
    for name, (field, parse) in spelled.items():
        if name not in given:
            continue
        if field in given:
            raise MpsimError(f"{where}: {name!r} and {field!r} are both given: leave one out")
        given[field] = parse(given.pop(name), f"{where}.{name}")
    return given
