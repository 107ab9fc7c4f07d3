"""Builders of grids: every dimension a chain, a ring, a full mesh or a switch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpsim.errors import MpsimError, unknown
from mpsim.topology.catalog import parse_wire
from mpsim.topology.laying import LINES, Template, check_counts, check_size, make_devices, wires_of
from mpsim.topology.model import Link, Topology
from mpsim.topology.wire import Wire

__all__ = ["chain", "fully_connected", "mesh", "product", "ring", "switch", "torus"]


def chain(n: int, *, link: Wire | str, device: Template = None, devices: Sequence[Template] | None = None) -> Topology:
    """Join `n` devices in a line: d0 ── d1 ── … ── dn-1.

    Examples
    --------
    >>> len(chain(4, link="50GB/s@2us").links)
    6
    """
    return _grid(f"chain:{n}", (n,), ("chain",), (link,), device, devices)


def ring(n: int, *, link: Wire | str, device: Template = None, devices: Sequence[Template] | None = None) -> Topology:
    """Join `n` devices in a ring, both ways round; two devices have one wire.

    Examples
    --------
    >>> len(ring(8, link="nvlink4", device="H100-SXM5-80GB").links)
    16
    """
    return _grid(f"ring:{n}", (n,), ("ring",), (link,), device, devices)


def fully_connected(
    n: int, *, link: Wire | str, device: Template = None, devices: Sequence[Template] | None = None
) -> Topology:
    """Join every two of `n` devices by a wire of their own, each of the full bandwidth.

    Examples
    --------
    >>> len(fully_connected(4, link="64GB/s@1us").links)
    12
    """
    return _grid(f"fully_connected:{n}", (n,), ("fully_connected",), (link,), device, devices)


def switch(n: int, *, link: Wire | str, device: Template = None, devices: Sequence[Template] | None = None) -> Topology:
    """Join `n` devices to one switch that is never a bottleneck: an uplink and a downlink each.

    A message passes two links, and has the latency of both.

    Examples
    --------
    >>> star = switch(8, link="50GB/s@2us")
    >>> star.switches, len(star.links), star.links[0].latency_s
    (('switch',), 16, 2e-06)
    """
    return _grid(f"switch:{n}", (n,), ("switch",), (link,), device, devices)


def _sizes(rows: int, cols: int, depth: int | None) -> tuple[int, ...]:
    return (rows, cols) if depth is None else (rows, cols, depth)


def mesh(
    rows: int,
    cols: int,
    depth: int | None = None,
    *,
    link: Wire | str,
    device: Template = None,
    devices: Sequence[Template] | None = None,
) -> Topology:
    """Join a 2-D or 3-D grid of devices, in row-major order, each to its neighbours.

    Examples
    --------
    >>> len(mesh(2, 3, link="50GB/s@2us").links)
    14
    """
    sizes = _sizes(rows, cols, depth)
    name = f"mesh:{'x'.join(map(str, sizes))}"
    return _grid(name, sizes, ["chain"] * len(sizes), [link] * len(sizes), device, devices)


def torus(
    rows: int,
    cols: int,
    depth: int | None = None,
    *,
    link: Wire | str,
    device: Template = None,
    devices: Sequence[Template] | None = None,
) -> Topology:
    """Join a 2-D or 3-D grid of devices, in row-major order, each row, column and pillar a ring.

    Examples
    --------
    >>> len(torus(4, 4, link="ici_v5e").links)
    64
    """
    sizes = _sizes(rows, cols, depth)
    name = f"torus:{'x'.join(map(str, sizes))}"
    return _grid(name, sizes, ["ring"] * len(sizes), [link] * len(sizes), device, devices)


def product(
    *sizes: int,
    kinds: Sequence[str],
    links: Sequence[Wire | str],
    device: Template = None,
    devices: Sequence[Template] | None = None,
) -> Topology:
    """Join a grid of devices, in row-major order, each dimension in its own way and by its own wire.

    Parameters
    ----------
    *sizes : int
        Devices along each dimension, the outermost first.
    kinds : sequence of str
        For each dimension ``chain``, ``ring``, ``fully_connected`` or ``switch`` (one for each line of devices).
    links : sequence of Wire or str
        For each dimension.

    Examples
    --------
    >>> two_level = product(2, 4, kinds=("switch", "ring"), links=("12.5GB/s@5us", "50GB/s@1us"))
    >>> len(two_level.devices), len(two_level.switches)
    (8, 4)
    """
    if not len(sizes) == len(kinds) == len(links):
        raise MpsimError(f"product has {len(sizes)} sizes, {len(kinds)} kinds and {len(links)} links: give one of each")
    for kind in kinds:
        if kind not in LINES:
            raise unknown("kind of dimension", kind, LINES)
    return _grid(f"product:{'x'.join(map(str, sizes))}", sizes, kinds, links, device, devices)


def _lines(names: Sequence[str], sizes: Sequence[int], dim: int) -> list[Sequence[str]]:
    """Return the lines of nodes along one dimension of a row-major grid."""
    stride = math.prod(sizes[dim + 1 :])
    starts = [i for i in range(len(names)) if (i // stride) % sizes[dim] == 0]
    return [[names[start + k * stride] for k in range(sizes[dim])] for start in starts]


def _grid(
    name: str,
    sizes: Sequence[int],
    kinds: Sequence[str],
    links: Sequence[str | Wire],
    device: Template,
    devices: Sequence[Template] | None,
) -> Topology:
    """Lay a grid of devices in row-major order, each dimension joined in its own way."""
    for size in sizes:
        check_counts(size=size)
    count = math.prod(sizes)
    check_size(count, 2 * sum(count // n * wires_of(kind, n) for kind, n in zip(kinds, sizes, strict=True)))
    names = [f"d{i}" for i in range(count)]
    switches: list[str] = []
    laid: list[Link] = []
    for dim, (kind, link) in enumerate(zip(kinds, links, strict=True)):
        wire, lines = parse_wire(link), _lines(names, sizes, dim)
        for i, line in enumerate(lines):
            called = "switch" if len(sizes) == 1 else f"s{dim}.{i}"
            more, wires = LINES[kind](line, wire, called)
            switches += more
            laid += wires
    made = make_devices(names, device, devices)
    return Topology(name=name, devices=made, switches=tuple(switches), links=tuple(laid))
