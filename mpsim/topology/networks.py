"""Builders of networks: nodes behind network cards, and trees and groups of switches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mpsim.errors import MpsimError, unknown
from mpsim.topology.catalog import parse_wire
from mpsim.topology.laying import LINES, Laid, Template, check_counts, check_size, make_devices, wires_of
from mpsim.topology.model import Link, Topology
from mpsim.topology.wire import Wire

__all__ = ["dragonfly", "fat_tree", "leaf_spine", "nodes"]


def nodes(
    n: int,
    *,
    per_node: int,
    inside: Wire | str,
    between: Wire | str,
    fabric: str = "switch",
    nics: int = 1,
    host: Wire | str | None = None,
    device: Template = None,
    devices: Sequence[Template] | None = None,
) -> Topology:
    """Join `n` nodes of devices through their network cards and one network switch.

    Parameters
    ----------
    per_node : int
        Devices in a node.
    inside : Wire or str
        The fabric of a node.
    between : Wire or str
        From each network card to the network switch.
    fabric : str
        ``switch`` (as NVSwitch), ``fully_connected``, ``ring`` or ``chain``.
    nics : int
        Cards in a node, shared by devices in equal groups; as many as devices: each has its own. A shared card's two
        directions are two nodes (``.out``, ``.in``), so that no message between devices of one node turns round
        inside it.
    host : Wire or str or None
        From device to card; None: the bandwidth of `between`, so that it is no bottleneck before the card, and no
        latency of its own. A per-message latency of `between` is charged here, where messages leave their device and
        enter it; one of `host` is not charged, for the message's includes it.

    Examples
    --------
    >>> cluster = nodes(2, per_node=4, nics=4, inside="nvlink4", between="ib_ndr", device="H100-SXM5-80GB")
    >>> [device.name for device in cluster.devices][:5]
    ['n0.d0', 'n0.d1', 'n0.d2', 'n0.d3', 'n1.d0']
    """
    check_counts(n=n, per_node=per_node, nics=nics)
    if per_node % nics:
        raise MpsimError(f"{per_node} devices do not divide over {nics} network cards: choose nics that divides them")
    if fabric not in LINES:
        raise unknown("fabric", fabric, LINES)
    check_size(n * per_node, 2 * n * (wires_of(fabric, per_node) + per_node + nics))
    wide = parse_wire(between)
    to_card = _to_card(wide, None if host is None else parse_wire(host))
    names, switches, laid = [], ["network"], []
    for i in range(n):
        members = [f"n{i}.d{j}" for j in range(per_node)]
        names += members
        for more, links in (
            LINES[fabric](members, parse_wire(inside), f"n{i}.switch"),
            _cards(f"n{i}", members, nics, to_card, wide.trunk()),
        ):
            switches += more
            laid += links
    made = make_devices(names, device, devices)
    return Topology(name=f"nodes:{n}", devices=made, switches=tuple(switches), links=tuple(laid))


def _to_card(between: Wire, host: Wire | None) -> Wire:
    """Return the wire from device to network card, with its share of the latency between nodes."""
    own = Wire(between.bandwidth_bytes_per_s, type="host") if host is None else host.trunk()
    share_s = between.end().latency_s if between.per_message else 0.0
    return Wire(own.bandwidth_bytes_per_s, own.latency_s + share_s, own.type)


def _cards(node: str, members: Sequence[str], cards: int, to_card: Wire, to_network: Wire) -> Laid:
    """Put a node's devices behind its network cards."""
    share = len(members) // cards
    switches: list[str] = []
    laid: list[Link] = []
    for k in range(cards):
        card = f"{node}.nic{k}"
        out, into = (card, card) if share == 1 else (f"{card}.out", f"{card}.in")
        switches += dict.fromkeys((out, into))
        for member in members[k * share : (k + 1) * share]:
            laid += [to_card.link(member, out), to_card.link(into, member)]
        laid += [to_network.link(out, "network"), to_network.link("network", into)]
    return tuple(switches), laid


def leaf_spine(
    leaves: int,
    *,
    per_leaf: int,
    spines: int,
    link: Wire | str,
    up: Wire | str | None = None,
    device: Template = None,
    devices: Sequence[Template] | None = None,
) -> Topology:
    """Join devices to leaf switches, and each leaf to every spine; fewer spines than devices on a leaf oversubscribe.

    `up` is the wire between leaf and spine (by default as `link`).

    Examples
    --------
    >>> len(leaf_spine(4, per_leaf=4, spines=2, link="ib_ndr").switches)
    6
    """
    check_counts(leaves=leaves, per_leaf=per_leaf, spines=spines)
    check_size(leaves * per_leaf, 2 * leaves * (per_leaf + spines))
    end, trunk = parse_wire(link).end(), parse_wire(link if up is None else up).trunk()
    names = [f"d{i}" for i in range(leaves * per_leaf)]
    switches = [f"leaf{i}" for i in range(leaves)] + [f"spine{j}" for j in range(spines)]
    laid = [one for i, name in enumerate(names) for one in end.pair(name, f"leaf{i // per_leaf}")]
    for i, j in itertools.product(range(leaves), range(spines)):
        laid += trunk.pair(f"leaf{i}", f"spine{j}")
    made = make_devices(names, device, devices)
    return Topology(name=f"leaf_spine:{leaves}", devices=made, switches=tuple(switches), links=tuple(laid))


def fat_tree(
    arity: int,
    *,
    link: Wire | str,
    up: Wire | str | None = None,
    device: Template = None,
    devices: Sequence[Template] | None = None,
) -> Topology:
    """Build the three-level fat tree of `arity`-port switches: arity³/4 devices, full bisection bandwidth.

    See https://doi.org/10.1145/1402958.1402967. `up` is the wire between switches (by default as `link`).

    Examples
    --------
    >>> tree = fat_tree(4, link="ib_ndr")
    >>> len(tree.devices), len(tree.switches)
    (16, 20)
    """
    if arity < 2 or arity % 2:
        raise MpsimError(f"arity is {arity}, expected an even number of switch ports, 2 or more")
    half = arity // 2
    check_size(arity * half * half, 6 * arity * half * half)
    end, trunk = parse_wire(link).end(), parse_wire(link if up is None else up).trunk()
    names = [f"d{i}" for i in range(arity * half * half)]
    laid = [one for i, name in enumerate(names) for one in end.pair(name, f"edge{i // half}")]
    for pod, a, b in itertools.product(range(arity), range(half), range(half)):
        laid += trunk.pair(f"edge{pod * half + a}", f"pod{pod * half + b}")
    for pod, a, b in itertools.product(range(arity), range(half), range(half)):
        laid += trunk.pair(f"pod{pod * half + a}", f"core{a * half + b}")
    levels = (("edge", arity * half), ("pod", arity * half), ("core", half * half))
    switches = tuple(f"{level}{i}" for level, count in levels for i in range(count))
    return Topology(
        name=f"fat_tree:{arity}", devices=make_devices(names, device, devices), switches=switches, links=tuple(laid)
    )


def dragonfly(
    groups: int,
    *,
    routers: int,
    per_router: int,
    link: Wire | str,
    local: Wire | str | None = None,
    wide: Wire | str | None = None,
    device: Template = None,
    devices: Sequence[Template] | None = None,
) -> Topology:
    """Build a dragonfly: groups of fully connected routers, and one wire between every two groups.

    See https://doi.org/10.1109/ISCA.2008.19. A group's wires to the others are dealt to its routers in turn.

    Parameters
    ----------
    groups, routers, per_router : int
        Groups, routers in a group, devices on a router.
    link, local, wide : Wire or str
        Device to router, router to router of its group, group to group (the last two by default as `link`).

    Examples
    --------
    >>> fly = dragonfly(3, routers=2, per_router=2, link="slingshot_200")
    >>> len(fly.devices), len(fly.switches), len(fly.links)
    (12, 6, 36)
    """
    check_counts(groups=groups, routers=routers, per_router=per_router)
    devices_in_all, routers_in_all = groups * routers * per_router, groups * routers
    check_size(devices_in_all, 2 * devices_in_all + routers_in_all * (routers - 1) + groups * (groups - 1))
    end = parse_wire(link).end()
    inside, across = (parse_wire(link if one is None else one).trunk() for one in (local, wide))
    names = [f"d{i}" for i in range(devices_in_all)]
    laid = [one for i, name in enumerate(names) for one in end.pair(name, f"r{i // per_router}")]
    for group, (a, b) in itertools.product(range(groups), itertools.combinations(range(routers), 2)):
        laid += inside.pair(f"r{group * routers + a}", f"r{group * routers + b}")
    for g, h in itertools.combinations(range(groups), 2):
        # The wire from g to h is number h-g-1 of g's and number g-h-1 (mod groups) of h's.
        a, b = (h - g - 1) % routers, (g - h - 1) % groups % routers
        laid += across.pair(f"r{g * routers + a}", f"r{h * routers + b}")
    switches = tuple(f"r{i}" for i in range(routers_in_all))
    made = make_devices(names, device, devices)
    return Topology(name=f"dragonfly:{groups}", devices=made, switches=switches, links=tuple(laid))
