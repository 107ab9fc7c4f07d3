"""What may make a prediction wrong, in a phrase each, what may make it most wrong first.

In this order: a trace that is not the step measured beside it, times of another device, rooflines, costs of links that
nobody measured; ``mpsim simulate`` adds a plan that hosts hold up (`mpsim.simulation.launching`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mpsim.lowering.devices import is_analytical
from mpsim.lowering.recomputation import watched_fractions
from mpsim.lowering.stages import update_parts
from mpsim.plan.recompute import parse_recompute
from mpsim.result.model import Count
from mpsim.scaling import Scaling
from mpsim.workload.model import Fidelity, Workload
from mpsim.workload.trust import check_trust, doubts, in_words

if TYPE_CHECKING:
    from mpsim.lowering.model import Lowering

__all__ = ["borrowed", "caveats", "check_point", "measured_on", "scalings"]


def used(lowering: Lowering) -> list[Workload]:
    """Return the workloads whose costs a plan uses."""
    types = dict.fromkeys(lowering.topology.devices[device].type for device in lowering.place)
    found = {id(one): one for one in map(lowering.costs.workload_of, types)}
    return list(found.values())


def measured_on(lowering: Lowering) -> str:
    """Return the devices that the costs which a plan uses were measured on."""
    return ", ".join(dict.fromkeys(one.device for one in used(lowering)))


def scalings(lowering: Lowering) -> tuple[Scaling, ...]:
    """Return by what costs were scaled that the plan uses."""
    return tuple(one.scaling for one in used(lowering) if one.scaling is not None)


def caveats(lowering: Lowering) -> tuple[str, ...]:
    """Return what of its costs may make the prediction of a plan wrong, in a phrase each.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.model import Device
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("w", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> caveats(lower(work, ring(2, link="1GB/s@0", device=Device(name="", speed=0.5)), Plan(dp=2)))
    ("scaled by the devices' speeds in the topology: 0.5",)
    """
    doubtful = [text for one in used(lowering) for text in map(in_words, doubts(one, *lowering.costs.point))]
    found = [f"{Fidelity.DOUBTFUL.value}: {text}" for text in doubtful]
    found += [scaling.text for scaling in scalings(lowering)]
    speeds = {lowering.topology.devices[device].speed for device in lowering.place}
    if speeds != {1.0}:
        spread = " to ".join(f"{speed:.3g}" for speed in sorted({min(speeds), max(speeds)}))
        found.append(f"scaled by the devices' speeds in the topology: {spread}")
    if lowering.plan.sharding.zero:
        parts = sorted({f"1/{update_parts(stage, lowering.plan):.4g}" for stage in lowering.stages})
        found.append(f"scaled: a replica's share of the update is taken as {' to '.join(parts)} of the whole one")
    again = parse_recompute(lowering.plan.sharding.recompute)
    if cores := watched_fractions(lowering.costs.each(lowering.types), again):
        spread = f"{min(cores):.0%} to {max(cores):.0%}"
        found.append(f"scaled: attention is taken as {spread} of its layers' forward, as in one step that was watched")
    if lowering.asynchronous:
        found.append("asynchronous: stages update amid the step, with gradients of older weights")
    rooflines = [one.device for one in used(lowering) if is_analytical(one)]
    found += [f"{Fidelity.ANALYTICAL.value}: rooflines of {name}, not measurements" for name in rooflines]
    return tuple(dict.fromkeys(found))


def borrowed(traffic: Iterable[Count]) -> tuple[str, ...]:
    """Return a phrase for each replacement of costs of links that nobody measured, with what took them.

    Examples
    --------
    >>> text = "not measured: nvlink5 as nvlink4, latencies x 1, bandwidths x 2"
    >>> borrowed([Count(kind="send", axis="pp", transfers=1, payload_bytes=8, link_bytes=8, unmeasured=text)])
    ('costs of send were not measured: nvlink5 as nvlink4, latencies x 1, bandwidths x 2',)
    """
    kinds: dict[str, dict[str, None]] = {}
    for count in traffic:
        for text in filter(None, count.unmeasured.split("; ")):
            kinds.setdefault(text, {})[count.kind] = None
    return tuple(f"costs of {', '.join(found)} were {text}" for text, found in kinds.items())


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
