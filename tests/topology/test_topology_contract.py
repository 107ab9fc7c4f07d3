"""What every registered builder must keep, whoever wrote it."""

import itertools

import pytest

from mpsim.errors import MpsimError
from mpsim.topology import laying
from mpsim.topology.builders import BUILDERS
from mpsim.topology.file import load_topology, save_topology
from mpsim.topology.routes import Routes
from mpsim.topology.show import draw, topology_to_dict
from mpsim.topology.wire import Wire

WIRE = Wire(2.0**30, 2.0**-20)
CASES = {
    "chain": [((n,), {"link": WIRE}) for n in (1, 2, 5)],
    "ring": [((n,), {"link": WIRE}) for n in (1, 2, 3, 8)],
    "mesh": [(sizes, {"link": WIRE}) for sizes in ((1, 1), (3, 4), (2, 2, 2))],
    "torus": [(sizes, {"link": WIRE}) for sizes in ((2, 2), (3, 4), (2, 3, 4))],
    "fully_connected": [((n,), {"link": WIRE}) for n in (1, 2, 6)],
    "switch": [((n,), {"link": WIRE}) for n in (1, 2, 8)],
    "product": [
        ((2, 3), {"kinds": kinds, "links": (WIRE, "nvlink4")})
        for kinds in itertools.product(("chain", "ring", "fully_connected", "switch"), repeat=2)
    ],
    "nodes": [
        ((2,), {"per_node": 4, "inside": WIRE, "between": "ib_ndr", "fabric": fabric, "nics": nics})
        for fabric in ("switch", "fully_connected", "ring", "chain")
        for nics in (4, 1, 2)
    ],
    "leaf_spine": [((3,), {"per_leaf": 2, "spines": spines, "link": WIRE}) for spines in (1, 2)],
    "fat_tree": [((arity,), {"link": WIRE}) for arity in (2, 4)],
    "dragonfly": [((g,), {"routers": r, "per_router": 1, "link": WIRE}) for g, r in ((1, 1), (2, 3), (5, 2))],
}
ALL = [(name, *case) for name, cases in CASES.items() for case in cases]


def test_every_builder_is_put_through():
    assert CASES.keys() == BUILDERS.keys()


@pytest.mark.parametrize(("name", "sizes", "keywords"), ALL)
def test_contract(name, sizes, keywords, tmp_path):
    topology = BUILDERS[name](*sizes, **keywords)
    assert topology == BUILDERS[name](*sizes, **keywords)
    assert topology.name.startswith(name)
    wires = {(link.source, link.target): link for link in topology.links}
    for (source, target), link in wires.items():
        back = wires.get((target, source))
        assert back is None or back.bandwidth_bytes_per_s == link.bandwidth_bytes_per_s
    _check_routes(topology)
    save_topology(tmp_path / "topology.json", topology)
    assert load_topology(tmp_path / "topology.json") == topology
    assert topology_to_dict(topology)["device_count"] == len(topology.devices)
    assert topology.name in draw(topology)


@pytest.mark.parametrize(("name", "sizes", "keywords"), ALL)
def test_what_is_to_be_built_is_counted_exactly_before_it_is(name, sizes, keywords, monkeypatch):
    made = BUILDERS[name](*sizes, **keywords)
    monkeypatch.setattr(laying, "_MOST_DEVICES", len(made.devices))
    monkeypatch.setattr(laying, "_MOST_LINKS", len(made.links))
    BUILDERS[name](*sizes, **keywords)
    monkeypatch.setattr(laying, "_MOST_LINKS", len(made.links) - 1)
    with pytest.raises(MpsimError, match=f"{len(made.devices)} devices and {len(made.links)} links: .* at most"):
        BUILDERS[name](*sizes, **keywords)
    monkeypatch.setattr(laying, "_MOST_LINKS", len(made.links))
    monkeypatch.setattr(laying, "_MOST_DEVICES", len(made.devices) - 1)
    with pytest.raises(MpsimError, match="at most are built"):
        BUILDERS[name](*sizes, **keywords)


def _check_routes(topology):
    """Every device reaches every other, there and back over as many links, and no route visits a node twice."""
    routes = Routes(topology)
    for a, b in itertools.permutations(range(len(topology.devices)), 2):
        path = routes.path(a, b)
        nodes = [topology.devices[a].name, *(topology.links[i].target for i in path)]
        assert all(topology.links[i].source == node for i, node in zip(path, nodes, strict=False))
        assert nodes[-1] == topology.devices[b].name
        assert len(set(nodes)) == len(nodes)
        assert len(path) == len(routes.path(b, a))
        assert routes.bandwidth_bytes_per_s(path) > 0


@pytest.mark.parametrize(("name", "sizes", "keywords"), ALL)
def test_devices_can_be_unlike(name, sizes, keywords):
    n = len(BUILDERS[name](*sizes, **keywords).devices)
    kinds = [("T4", "L4")[i % 2] for i in range(n)]
    assert [one.type for one in BUILDERS[name](*sizes, **keywords, devices=kinds).devices] == kinds
    assert {one.type for one in BUILDERS[name](*sizes, **keywords, device="t4").devices} == {"T4"}
