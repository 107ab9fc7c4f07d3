"""What may make a prediction wrong, in a phrase each: what was scaled and by how much, what nobody measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsim.program.devices import is_analytical
from mpsim.scaling import Scaling
from mpsim.workload.model import Fidelity, Workload
from mpsim.workload.trust import check_trust, doubts, in_words

if TYPE_CHECKING:
    from mpsim.program.lower import Lowering

__all__ = ["caveats", "check_point", "scalings"]


def used(lowering: Lowering) -> list[Workload]:
    """Return the workloads whose costs a plan uses."""
    types = dict.fromkeys(lowering.topology.devices[device].type for device in lowering.place)
    found = {id(one): one for one in map(lowering.costs.workload_of, types)}
    return list(found.values())


def scalings(lowering: Lowering) -> tuple[Scaling, ...]:
    """Return by what costs were scaled that the plan uses."""
    return tuple(one.scaling for one in used(lowering) if one.scaling is not None)


def caveats(lowering: Lowering) -> tuple[str, ...]:
    """Return what may make the prediction of a plan wrong, in a phrase each.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.program.lower import lower
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.model import Device
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("w", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> caveats(lower(work, ring(2, link="1GB/s@0", device=Device(name="", speed=0.5)), Plan(dp=2)))
    ("scaled by the devices' speeds in the topology: 0.5",)
    """
    found = [scaling.text for scaling in scalings(lowering)]
    speeds = {lowering.topology.devices[device].speed for device in lowering.place}
    if speeds != {1.0}:
        spread = " to ".join(f"{speed:.3g}" for speed in sorted({min(speeds), max(speeds)}))
        found.append(f"scaled by the devices' speeds in the topology: {spread}")
    for workload in used(lowering):
        if is_analytical(workload):
            found.append(f"{Fidelity.ANALYTICAL.value}: rooflines of {workload.device}, not measurements")
        found += [f"{Fidelity.DOUBTFUL.value}: {in_words(check)}" for check in doubts(workload, *lowering.costs.point)]
    return tuple(dict.fromkeys(found))


def check_point(lowering: Lowering, *, unchecked: bool) -> None:
    """Refuse costs that miss the step measured beside them by too much, unless they are to be taken unchecked.

    Raises
    ------
    MpsimError
        As `mpsim.workload.trust.check_trust`.
    """
    if not unchecked:
        for workload in used(lowering):
            check_trust(workload, *lowering.costs.point)
