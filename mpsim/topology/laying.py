"""How builders lay devices and the lines of links between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from mpsim.errors import MpsimError
from mpsim.topology.catalog import topology_device
from mpsim.topology.model import Device, Link
from mpsim.topology.wire import Wire

__all__ = ["LINES", "Laid", "Template", "check_counts", "check_size", "make_devices", "wires_of"]

Template = Device | str | None


def _template(device: Template) -> Device:
    if device is None:
        return Device(name="")
    return topology_device(device) if isinstance(device, str) else device


def make_devices(names: Sequence[str], device: Template, devices: Sequence[Template] | None) -> tuple[Device, ...]:
    """Return one device for each name, made after its template.

    Raises
    ------
    MpsimError
        Both a template and a list, or a list that is too short or too long.

    Examples
    --------
    >>> [device.type for device in make_devices(["d0", "d1"], None, ["T4", "L4"])]
    ['T4', 'L4']
    """
    if devices is not None and device is not None:
        raise MpsimError("device and devices are both given: give one template, or a list with one for each device")
    if devices is None:
        devices = [_template(device)] * len(names)
    if len(devices) != len(names):
        raise MpsimError(
            f"devices has {len(devices)} entries, the topology has {len(names)} devices: give one for each"
        )
    return tuple(replace(_template(one), name=name) for one, name in zip(devices, names, strict=True))


def check_counts(least: int = 1, **counts: int) -> None:
    """Refuse a count that is less than `least`.

    Examples
    --------
    >>> check_counts(size=0)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: size is 0, expected 1 or more
    """
    for name, count in counts.items():
        if count < least:
            raise MpsimError(f"{name} is {count}, expected {least} or more")


# A slip of the hand in a size must not fill the memory: a link takes some 250 bytes, and 3 us to lay.
_MOST_DEVICES, _MOST_LINKS = 500_000, 1_000_000


def check_size(devices: int, links: int) -> None:
    """Refuse what is too large to be built, before any of it is: half a million devices, or a million links.

    Examples
    --------
    >>> check_size(5_000, 5_000 * 4_999)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: 5,000 devices and 24,995,000 links: 500,000 and 1,000,000 at most are built: ask for fewer devices, or join them by switches (2 links a device)
    """  # noqa: E501
    if devices > _MOST_DEVICES or links > _MOST_LINKS:
        raise MpsimError(
            f"{_shown(devices)} devices and {_shown(links)} links: {_MOST_DEVICES:,} and {_MOST_LINKS:,} at most are"
            " built: ask for fewer devices, or join them by switches (2 links a device)"
        )


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "over 10^15"


def wires_of(kind: str, n: int) -> int:
    """Return how many wires, each two links, one line of `n` nodes of a kind has.

    Examples
    --------
    >>> [wires_of(kind, 4) for kind in LINES]
    [3, 4, 6, 4]
    """
    return {"chain": n - 1, "ring": n if n > 2 else n - 1, "fully_connected": n * (n - 1) // 2, "switch": n}[kind]


# How one dimension joins the nodes that stand in a line: (nodes, wire, name for a switch) → (switches, links).
Laid = tuple[tuple[str, ...], list[Link]]


def _chain_line(line: Sequence[str], wire: Wire, _: str) -> Laid:
    pairs = list(itertools.pairwise(line))
    return (), [wire.link(a, b) for a, b in pairs] + [wire.link(b, a) for a, b in pairs]


def _ring_line(line: Sequence[str], wire: Wire, _: str) -> Laid:
    """Join the ends too; two nodes have one wire between them, not two."""
    if len(line) < 3:
        return _chain_line(line, wire, _)
    return _chain_line([*line, line[0]], wire, _)


def _full_line(line: Sequence[str], wire: Wire, _: str) -> Laid:
    return (), [wire.link(a, b) for a, b in itertools.permutations(line, 2)]


def _switch_line(line: Sequence[str], wire: Wire, name: str) -> Laid:
    end = wire.end()
    return (name,), [end.link(node, name) for node in line] + [end.link(name, node) for node in line]


LINES: dict[str, Callable[[Sequence[str], Wire, str], Laid]] = {
    "chain": _chain_line,
    "ring": _ring_line,
    "fully_connected": _full_line,
    "switch": _switch_line,
}
