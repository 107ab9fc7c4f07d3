"""Make a plan ready to be replayed: costs for its devices, lowered, checked, cut where its step is the shortest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mpsim.lowering.caveats import check_point
from mpsim.lowering.devices import scaled_by_type
from mpsim.lowering.lower import lower
from mpsim.lowering.model import Lowering
from mpsim.plan.model import Plan, check_size
from mpsim.simulation.cutting import Played, fastest_played
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.workload.model import Workload

__all__ = ["prepare", "prepare_played"]


def prepare(
    workload: Workload,
    topology: Topology,
    plan: Plan,
    *,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    host_speed: float = 1.0,
) -> Lowering:
    """Return a plan lowered, its stages cut; the arguments are those of `simulate`.

    Raises
    ------
    MpsimError
        A plan that cannot be run, or costs that miss the step measured beside them.

    Examples
    --------
    >>> from mpsim.topology.builders import chain
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=0.5, backward_s=0.5) for name in "abcd"]
    >>> work = Workload.chain("four", layers, activation_bytes=[60, 100, 60, 0])
    >>> prepare(work, chain(2, link="50B/s@0"), Plan(pp=2)).boundaries
    (1,)
    """
    return prepare_played(
        workload, topology, plan, by_type=by_type, rescale=rescale, speed=speed, unchecked=unchecked,
        host_speed=host_speed,
    ).lowering  # fmt: skip


def prepare_played(
    workload: Workload,
    topology: Topology,
    plan: Plan,
    *,
    by_type: Mapping[str, Workload | str | Path] | None = None,
    rescale: str | None = None,
    speed: float | None = None,
    unchecked: bool = False,
    host_speed: float = 1.0,
    routes: Routes | None = None,
) -> Played:
    """Return what `prepare` does, with what the search for its cut replayed, as `simulate_played` takes it.

    `routes` are the topology's, with what other plans have found out of them.
    """
    check_size(plan)
    types = scaled_by_type(workload, topology, by_type, rescale=rescale, speed=speed)
    lowering = lower(workload, topology, plan, by_type=types, host_speed=host_speed, routes=routes)
    check_point(lowering, unchecked=unchecked)
    return fastest_played(lowering)
