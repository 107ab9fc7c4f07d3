"""What collectives cost over links of the catalog, calibrated on measurements that others published.

``published_costs.json`` is made by ``python benchmarks/published_costs.py`` from tables of nccl-tests, each cited in
the `source` of its costs. Presets have these costs; a builder gets them with ``costs=published``. They are of machines
like the one described, not of yours: ``mpsim calibrate`` puts yours in their place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from mpsim import documents
from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.topology.borrowed import with_borrowed
from mpsim.topology.costs import CollectiveCost
from mpsim.topology.edit import replace_bandwidth
from mpsim.topology.model import Topology

__all__ = ["FILE", "Published", "Reached", "published_bandwidths", "save_published", "with_published"]

FILE = Path(__file__).parent / "published_costs.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The bandwidth that large tensors reached on links of a type."""

    link: str
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Costs, and the bandwidth that was reached on each type of link.

    Attributes
    ----------
    reached : tuple of Reached
        One for each type of link.
    costs : tuple of CollectiveCost
        Those of inner levels first.
    """

    reached: tuple[Reached, ...]
    costs: tuple[CollectiveCost, ...]
    provenance: Provenance = Provenance()


def save_published(path: str | Path, published: Published) -> None:
    """Write such a file."""
    documents.write(path, "costs", _VERSION, published)


@cache
def _published() -> Published:
    found: Published = documents.read(FILE, "costs", _VERSION, Published, {})
    return found


def published_bandwidths() -> dict[str, float]:
    """Return the bandwidth that was reached on each type of link that was measured, in bytes/s.

    Examples
    --------
    >>> "nvlink4" in published_bandwidths()
    True
    """
    return {one.link: one.bandwidth_bytes_per_s for one in _published().reached}


def with_published(topology: Topology, *, required: bool = False) -> Topology:
    """Return the topology with published costs and bandwidths of its links, or costs of the nearest that have any.

    Parameters
    ----------
    required : bool
        Whether it is an error if none has.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> sorted({cost.kind for cost in with_published(switch(8, link="nvlink3")).costs})
    ['all_gather', 'all_reduce', 'all_to_all', 'reduce_scatter']
    """
    reached = published_bandwidths()
    types = {link.type for link in topology.links} & reached.keys()
    for type in sorted(types):
        topology = replace_bandwidth(topology, type, reached[type])
    costs = tuple(with_borrowed(topology, _published().costs))
    if required and not costs:
        known = ", ".join(sorted(reached))
        raise MpsimError(
            f"no costs were published for links of {topology.name!r} or their like, only for {known}: leave out costs"
        )
    return replace(topology, costs=costs)
