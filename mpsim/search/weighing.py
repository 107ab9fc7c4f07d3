"""Weigh a plan: its step and what its devices hold, as `mpsim.simulate` has them; and what both are at least."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import NamedTuple

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.lowering.caveats import borrowed, caveats
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.lowering.model import Lowering
from mpsim.plan.automatic import Fitted
from mpsim.plan.model import Plan, check_size
from mpsim.plan.schedules import resolve_schedule
from mpsim.program.account import account_devices, account_traffic
from mpsim.result.model import DeviceUse
from mpsim.search.bounds import Least
from mpsim.search.study import Study
from mpsim.simulation.preparing import prepare_played

__all__ = ["Weighed", "Weighing", "rooms"]

_UNKNOWN = Least(0.0, 0.0, False)


class Weighed(NamedTuple):
    """What a replay of a plan tells.

    Attributes
    ----------
    lowering : Lowering
        The plan, cut as it was replayed.
    step_s : float
        Every time at its median.
    uses : tuple of DeviceUse
        Of one of all devices that do the same.
    excess : dict of int to int
        Of the pipeline ranks that hold more than a device has, how much.
    caveats : tuple of str
        What may make it wrong.
    """

    lowering: Lowering
    step_s: float
    uses: tuple[DeviceUse, ...]
    excess: dict[int, int]
    caveats: tuple[str, ...]

    @property
    def fullest(self) -> DeviceUse:
        """The device that is nearest to its capacity, or furthest above; of unknown ones that which holds most."""
        return max(self.uses, key=lambda use: (use.memory.peak_bytes / (use.capacity_bytes or inf), _peak(use)))


def _peak(use: DeviceUse) -> int:
    return use.memory.peak_bytes


class Weighing:
    """Plans of a study as they are weighed, each once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._known: dict[Plan, Weighed | MpsimError] = {}

    def weigh(self, plan: Plan) -> Weighed:
        """Return what a replay of a plan tells, its stages cut as `mpsim.simulate` cuts them.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        if plan not in self._known:
            try:
                self._known[plan] = self._weighed(plan)
            except MpsimError as error:
                self._known[plan] = error
        found = self._known[plan]
        if isinstance(found, MpsimError):
            raise found
        return found

    def _weighed(self, plan: Plan) -> Weighed:
        study = self.study
        played = prepare_played(
            study.workload, study.topology, plan, by_type=study.by_type, unchecked=study.unchecked,
            host_speed=study.host_speed, routes=study.routes,
        )  # fmt: skip
        lowering = played.lowering
        with collector_paused():
            program = played.program or program_of(lowering, folded=True)
            timing = played.timing or replay(program, study.topology)
            uses = account_devices(program, study.topology, lowering.place, timing, None)
        excess: dict[int, int] = {}
        for device, use in zip(sorted(program.stands_for or lowering.place), uses, strict=True):
            if use.fits is False:
                rank = lowering.grid.at(lowering.place.index(device))["pp"]
                excess[rank] = max(excess.get(rank, 0), use.memory.peak_bytes - use.capacity_bytes)
        said = (*caveats(lowering), *borrowed(account_traffic(program)))
        return Weighed(lowering, timing.step_s, uses, excess, said)

    def lower(self, plan: Plan) -> Lowering:
        """Return a plan lowered, its stages balanced where it leaves them open."""
        study = self.study
        return lower(
            study.workload, study.topology, plan, by_type=study.by_type, host_speed=study.host_speed,
            routes=study.routes,
        )  # fmt: skip

    def least(self, plan: Plan) -> Least:
        """Return what a plan takes and holds at least, however it is cut where it leaves that open.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        check_size(plan)
        bounds = self.study.bounds
        if isinstance(resolve_schedule(plan.schedule), Fitted):
            return _UNKNOWN  # its rows hang on its stages
        if plan.boundaries is None:
            rough = bounds.rough(plan)
            found = rough if rough.overflows else bounds.close(plan)
            found = found._replace(step_s=max(found.step_s, rough.step_s))
        else:
            of = bounds.of(plan)
            held, over = of.memory.at([plan.boundaries])
            if over.all() and not of.facts.asynchronous:
                return Least(0.0, float(held.min()), True)
            found = self.study.cut(plan)[1]
        sharding = plan.sharding
        # What is gathered or reduced in other types takes less than the bound has it.
        apart = sharding.gather_dtype or sharding.reduce_dtype
        return found._replace(step_s=0.0) if apart else found

    def surely_overflows(self, plan: Plan) -> bool:
        """Return whether a plan overflows a memory whichever layers are computed again, or at the host.

        Raises
        ------
        MpsimError
            A plan that cannot be run.
        """
        # Of stages that are computed again whole the bound has nothing that is kept.
        bare = replace(plan, sharding=replace(plan.sharding, recompute="stages"))
        if isinstance(resolve_schedule(plan.schedule), Fitted):
            return False
        if plan.boundaries is None:
            return self.study.bounds.close(bare).overflows
        of = self.study.bounds.of(bare)
        return bool(of.memory.at([plan.boundaries])[1].all()) and not of.facts.asynchronous


def rooms(lowering: Lowering) -> list[float]:
    """Return what the smallest memory of each pipeline rank has; ``inf`` where none is known."""
    grid, place, devices = lowering.grid, lowering.place, lowering.topology.devices
    groups = [grid.group(grid.rank(pp=p), "dp", "cp", "tp") for p in range(lowering.plan.pp)]
    return [min(devices[place[rank]].memory_bytes or inf for rank in group) for group in groups]
