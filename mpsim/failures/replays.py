"""What a step takes while devices are slow or replicas are out: replayed, each situation once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.failures.lanes import Mode
from mpsim.failures.model import Checkpoints, Recovery
from mpsim.failures.outages import NOBODY, Situation
from mpsim.failures.state import Saving, saving_of
from mpsim.garbage import collector_paused
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import global_batch, microbatch_size
from mpsim.program.account import account_devices
from mpsim.program.model import Program, Timing
from mpsim.simulation.steady import steady_s
from mpsim.topology.model import Topology

__all__ = ["Replays", "alike"]


class Replays:
    """The replays of a plan and of what is left of it.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given("a", forward_s=1.0, backward_s=2.0)]
    >>> lowering = lower(Workload.chain("one", layers), parse_topology("chain:2,link=1GB/s@0"), Plan(dp=2))
    >>> replays = Replays(lowering, Checkpoints(write_s=2.0), Recovery())
    >>> replays.mode(Situation(slow=((1, 1.5),))).step_s, replays.mode(Situation(out=(0,))).useful_s
    (4.5, 1.5)
    """

    def __init__(self, lowering: Lowering, checkpoints: Checkpoints, recovery: Recovery) -> None:
        self.lowering, self.checkpoints, self.recovery = lowering, checkpoints, recovery
        self.batch = global_batch(lowering.workload, lowering.plan)
        self._lowered: dict[tuple[int, ...], Lowering] = {(): lowering}
        self._saved: dict[tuple[int, ...], Saving] = {}
        self._possible: dict[int, bool] = {0: True}
        self.program = program_of(lowering, folded=True)
        self.timing = replay(self.program, lowering.topology)
        self.step_s = self._whole_s(lowering, self.program, self.timing)
        self._steps = {NOBODY: self.step_s}
        if not self.step_s > 0:
            raise MpsimError("a step takes no time: there is nothing to lose; check the workload's costs")

    def _whole_s(self, lowering: Lowering, program: Program, timing: Timing) -> float:
        """Return what a step takes where steps follow one another, and where that is not known one alone."""
        found = steady_s(lowering, program, timing)
        return timing.step_s if found is None else found

    def saving(self, out: tuple[int, ...] = ()) -> Saving:
        """Return what checkpoints take while some replicas are out."""
        if out not in self._saved:
            self._saved[out] = saving_of(self._without(out), self.checkpoints)
        return self._saved[out]

    def can_go_on(self, out: frozenset[int]) -> bool:
        """Return whether there is a plan without so many replicas, and fits."""
        count = len(out)
        if count not in self._possible:
            self._possible[count] = count < self.lowering.plan.dp and self._fits(_last(count, self.lowering.plan.dp))
        return self._possible[count]

    def _fits(self, out: tuple[int, ...]) -> bool:
        try:
            lowering = self._without(out)
        except MpsimError:
            return False
        program = program_of(lowering, folded=True)
        timing = replay(program, lowering.topology)
        self._steps[Situation(out)] = self._whole_s(lowering, program, timing)
        uses = account_devices(program, lowering.topology, lowering.place, timing, timing)
        return not any(use.fits is False for use in uses)

    def mode(self, situation: Situation) -> Mode:
        """Return what a step, a checkpoint and a restart take in a situation."""
        lowering, saving = self._without(situation.out), self.saving(situation.out)
        if situation not in self._steps:
            slowed = replace(lowering, topology=_slowed(lowering, dict(situation.slow)))
            with collector_paused():
                program = program_of(slowed, folded=True)
                self._steps[situation] = self._whole_s(slowed, program, replay(program, slowed.topology))
        useful_s = self.step_s * global_batch(lowering.workload, lowering.plan) / self.batch
        restart_s = self.recovery.restart_s + saving.read_s
        return Mode(self._steps[situation], useful_s, saving.blocked_s, saving.written_s, restart_s)

    def _without(self, out: tuple[int, ...]) -> Lowering:
        """Return the plan without some replicas: each that is left does what it did, on the devices that it has."""
        if out not in self._lowered:
            lowering, plan, grid = self.lowering, self.lowering.plan, self.lowering.grid
            left = [replica for replica in range(plan.dp) if replica not in out]
            stay = [rank for replica in left for rank in grid.group(grid.rank(dp=replica), "pp", "cp", "tp")]
            per_replica = microbatch_size(lowering.workload, plan) * plan.microbatches
            smaller = replace(
                plan,
                dp=len(left),
                batch=per_replica * len(left),
                devices=tuple(lowering.place[rank] for rank in stay),
                boundaries=lowering.boundaries,
                # One replica has nobody to shard with.
                sharding=plan.sharding if len(left) * plan.cp > 1 else plan.sharding.at(0),
            )
            by_type, host_speed = lowering.costs.by_type, lowering.host_speed
            self._lowered[out] = lower(
                lowering.workload, lowering.topology, smaller, by_type=by_type, host_speed=host_speed
            )
        return self._lowered[out]


def _last(count: int, of: int) -> tuple[int, ...]:
    return tuple(range(of - count, of))


def _slowed(lowering: Lowering, factors: Mapping[int, float]) -> Topology:
    topology = lowering.topology
    devices = (
        replace(device, speed=device.speed / factors[i]) if i in factors else device
        for i, device in enumerate(topology.devices)
    )
    return replace(topology, devices=tuple(devices))


def alike(situation: Situation, lowering: Lowering, rank_of: Mapping[int, int]) -> Situation:
    """Return the situation that stands for one where replicas are alike, and so are ranks that share layers.

    It is the last replicas that are out, and the first that have the slow devices, each in the first of its ranks of a
    stage. `rank_of` has the rank of each device.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> work = Workload.chain("one", [Layer.given("a", forward_s=1.0, backward_s=2.0)])
    >>> lowering = lower(work, parse_topology("chain:4,link=1GB/s@0"), Plan(dp=4))
    >>> alike(Situation(out=(0,), slow=((2, 1.5),)), lowering, {i: i for i in range(4)})
    Situation(out=(3,), slow=((0, 1.5),))
    """
    grid, plan = lowering.grid, lowering.plan
    out = _last(len(situation.out), plan.dp)
    if not situation.slow:
        return Situation(out)
    patterns: dict[int, dict[int, float]] = {}
    for device, factor in situation.slow:
        at = grid.at(rank_of[device])
        pattern = patterns.setdefault(at["dp"], {})
        pattern[at["pp"]] = max(pattern.get(at["pp"], 1.0), factor)
    ordered = sorted((tuple(sorted(pattern.items())) for pattern in patterns.values()), reverse=True)
    first = (
        (lowering.place[grid.rank(dp=replica, pp=p)], factor)
        for replica, pattern in enumerate(ordered)
        for p, factor in pattern
    )
    return Situation(out, tuple(sorted(first)))
