"""Emit the tasks of a program: the stages of every replica, then what replicas and stages exchange at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpsim.collectives.traffic import collective, point_to_point
from mpsim.lowering.draws import Draw, delayed
from mpsim.lowering.launching import HOST, Hosts
from mpsim.lowering.memory import allocations_of
from mpsim.lowering.stage_emitter import StageEmitter
from mpsim.lowering.stages import Tied
from mpsim.lowering.times import RankTimes, rank_times
from mpsim.plan.runtimes import resolve_runtime
from mpsim.program.model import Allocation, Program, Resident, Stream, Task, Traffic

if TYPE_CHECKING:
    from mpsim.lowering.lower import Lowering

__all__ = ["Emitter"]


class Emitter:
    """Emits the tasks of one program, replica by replica, stage by stage, in the order of the rows."""

    def __init__(self, lowering: Lowering, draw: Draw | None) -> None:
        self.lowering = lowering
        self.plan = lowering.plan
        self.draw = draw
        self.runtime = resolve_runtime(self.plan.runtime)
        self.tasks: list[Task] = []
        self.streams: dict[tuple[int, str, bool], int] = {}
        self.traffic: dict[object, Traffic] = {}
        # Sends by what they carry and to whom, and the tasks that wait for them, which may be emitted earlier.
        self.sends: dict[int, int] = {}
        self.receives: list[tuple[int, int]] = []
        self.residents: list[Resident] = []
        # By device: the tasks that compute.
        self.ran: dict[int, list[int]] = {}
        self.passes = lowering.passes
        # By (stage, tp rank, bucket) and by (stage, tp rank): the tasks that a reduction or an update waits for.
        self.bucket_ready: dict[tuple[int, int, int], list[int]] = {}
        self.reduced: dict[tuple[int, int], list[int]] = {}
        # By (replica, stage, tp rank): reductions between the stages of one replica, which no other one waits for.
        self.tied: dict[tuple[int, int, int], list[int]] = {}
        self.last_backward: dict[int, int] = {}
        self._times: dict[tuple[int, int, int], RankTimes] = {}
        message_s = self.runtime.launch_s / lowering.host_speed
        self.hosts = Hosts(lowering.launches, message_s, self._add, lambda device: self.stream(device, HOST, host=True))

    def emit(self) -> Program:
        """Return the whole program."""
        plan = self.plan
        for d in range(plan.dp):
            for p in range(plan.pp):
                StageEmitter(self, d, p).emit()
        for task, key in self.receives:
            self.tasks[task] = self.tasks[task]._replace(after=(*self.tasks[task].after, self.sends[key]))
        self._reduce_gradients()
        self._reduce_tied()
        self._update()
        streams = tuple(Stream(device=device, name=name, host=host) for device, name, host in self.streams)
        return Program(
            streams=streams,
            tasks=tuple(self.tasks) if self.draw is None else delayed(self.tasks, self.draw),
            residents=tuple(self.residents),
            allocations=tuple(self._allocations()),
        )

    def device(self, d: int, p: int, t: int) -> int:
        """Return the device at a rank."""
        return self.lowering.place[(d * self.plan.pp + p) * self.plan.tp + t]

    def stream(self, device: int, name: str, host: bool = False) -> int:
        """Return the index of a device's stream, made on first use."""
        return self.streams.setdefault((device, name, host), len(self.streams))

    def _add(self, task: Task) -> int:
        self.tasks.append(task)
        return len(self.tasks) - 1

    def times(self, d: int, p: int, t: int) -> RankTimes:
        """Return the layer times of a rank, looked up or drawn once."""
        if (d, p, t) not in self._times:
            self._times[d, p, t] = rank_times(self.lowering, self.draw, d, p, t)
        return self._times[d, p, t]

    def message(self, source: int, target: int, count: int) -> Traffic:
        """Return the traffic of one message, made once for all that are alike."""
        key = (source, target, count)
        if key not in self.traffic:
            routes = self.lowering.routes
            if count:
                self.traffic[key] = point_to_point(routes, source, target, count)
            else:
                self.traffic[key] = Traffic(latency_s=routes.latency_s(routes.path(source, target)))
        return self.traffic[key]

    def collective(self, kind: str, group: tuple[int, ...], count: int) -> Traffic:
        """Return the traffic of one collective, made once for all that are alike."""
        key = (kind, group, count)
        if key not in self.traffic:
            self.traffic[key] = collective(self.lowering.routes, kind, group, count, algorithm=self.plan.algorithm)
        return self.traffic[key]

    def _reduce_gradients(self) -> None:
        plan = self.plan
        if plan.dp == 1:
            return
        for p, passes in enumerate(self.passes):
            for t in range(plan.tp):
                group = tuple(self.device(d, p, t) for d in range(plan.dp))
                for b, bucket in enumerate(passes.buckets):
                    ready = tuple(self.bucket_ready[p, t, b])
                    index = self._all_reduce(f"bucket {b}", "dp", p, group, bucket.bytes, ready)
                    self.reduced.setdefault((p, t), []).append(index)

    def _reduce_tied(self) -> None:
        """All-reduce the gradients of parameters that layers of several stages share, after each stage's own."""
        for tied in self.lowering.tied:
            for d in range(self.plan.dp):
                for t in range(self.plan.tp):
                    self._reduce_one_tied(tied, d, t)

    def _reduce_one_tied(self, tied: Tied, d: int, t: int) -> None:
        name, count, holders = tied
        group = tuple(self.device(d, p, t) for p in holders)
        ready = [self.last_backward[device] for device in group]
        for device in group:
            ready += self.hosts.launch(device, f"tied {name}", stage=holders[0])
        for p in holders:
            ready += self.reduced.get((p, t), [])
        index = self._all_reduce(f"tied {name}", "pp", holders[0], group, count, tuple(ready))
        for p in holders:
            self.tied.setdefault((d, p, t), []).append(index)

    def _all_reduce(
        self, name: str, axis: str, stage: int, group: tuple[int, ...], count: int, after: tuple[int, ...]
    ) -> int:
        streams = tuple(self.stream(device, "gradients") for device in group)
        traffic = self.collective("all_reduce", group, count)
        self.tasks.append(Task(name, "all_reduce", streams, after, 0.0, traffic, axis, stage))
        return len(self.tasks) - 1

    def _update(self) -> None:
        plan = self.plan
        for d in range(plan.dp):
            for p in range(plan.pp):
                for t in range(plan.tp):
                    times, device = self.times(d, p, t), self.device(d, p, t)
                    if times.optimizer_s:
                        launched = self.hosts.launch(device, "update", times.launch_update, stage=p)
                        stream = (self.stream(device, "compute"),)
                        after = (*self.reduced.get((p, t), ()), *self.tied.get((d, p, t), ()), *launched)
                        self.tasks.append(Task("update", "optimizer", stream, after, times.optimizer_s, None, "", p))
                        self.ran[device].append(len(self.tasks) - 1)

    def _allocations(self) -> Iterator[Allocation]:
        plan = self.plan
        for rank, device in enumerate(self.lowering.place):
            d, p, t = rank // (plan.pp * plan.tp), rank // plan.tp % plan.pp, rank % plan.tp
            reduced = (*self.reduced.get((p, t), ()), *self.tied.get((d, p, t), ()))
            yield from allocations_of(self.lowering.stages[p], device, self.tasks, self.ran[device], reduced)
