"""Emit the tasks of one stage of one replica, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpsim.lowering.memory import residents_of
from mpsim.lowering.segments import Segment
from mpsim.lowering.times import Launch
from mpsim.plan.schedules import Operation
from mpsim.program.model import Task, Traffic

if TYPE_CHECKING:
    from mpsim.lowering.emitter import Emitter

__all__ = ["StageEmitter"]

_KIND = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}


class StageEmitter:
    """Emits one stage of one replica: its tensor-parallel ranks go through the row in step."""

    def __init__(self, parent: Emitter, d: int, p: int) -> None:
        self.parent = parent
        self.d, self.p = d, p
        self.ranks = range(parent.plan.tp)
        self.group = tuple(parent.device(d, p, t) for t in self.ranks)
        self.compute = tuple(parent.stream(device, "compute") for device in self.group)
        self.own = tuple((stream,) for stream in self.compute)
        self.times = [parent.times(d, p, t) for t in self.ranks]
        self.stage = parent.lowering.stages[p]
        self.passes = parent.passes[p]
        self.ports: dict[tuple[str, int], tuple[tuple[int, ...], Traffic]] = {}

    def emit(self) -> None:
        """Append the stage's tasks to the program's."""
        self._reside()
        for operation in self.parent.lowering.rows[self.p]:
            self._operation(operation)

    def _operation(self, operation: Operation) -> None:
        _, kind, k = operation
        is_last = operation == self.passes.last_operation
        segments = self.passes.last[kind] if is_last else self.passes.segments[kind]
        name = str(operation)
        firsts: list[int] = []
        done: list[int] = []
        for segment in segments:
            begun, done = self._segment(segment, name, kind, k)
            firsts = firsts or begun
        if kind == "F":
            self._receive("F", firsts, k, self.p > 0)
            self._send("F", self.p + 1, k, done)
        if kind in "BI":
            self._receive("B", firsts, k, self.p < self.parent.plan.pp - 1)
            self._send("B", self.p - 1, k, done)
        if is_last:
            self.parent.last_backward.update(zip(self.group, done, strict=True))

    def _segment(self, segment: Segment, name: str, kind: str, k: int) -> tuple[list[int], list[int]]:
        """Emit a run of layers on every rank, and what must be exchanged after it; return each rank's ends of it."""
        parent, tasks = self.parent, self.parent.tasks
        begun = []
        for t in self.ranks:
            which = (kind, k, segment.first, segment.last)
            launched = self._launch(t, name, k, self.times[t].launch(*which)) if parent.hosts.on else ()
            tasks.append(
                Task(name, _KIND[kind], self.own[t], launched, self.times[t].seconds(*which), None, "", self.p, k)
            )
            begun.append(len(tasks) - 1)
            parent.ran.setdefault(self.group[t], []).append(begun[t])
            for bucket in segment.buckets:
                launched = self._launch(t, f"bucket {bucket}", -1)
                parent.bucket_ready.setdefault((self.p, t, bucket), []).extend((begun[t], *launched))
        done = begun
        for call, count in segment.collectives:
            traffic = parent.collective(call, self.group, count)
            launched = tuple(i for t in self.ranks for i in self._launch(t, name, k))
            tasks.append(Task(name, call, self.compute, launched, 0.0, traffic, "tp", self.p, k))
            done = [len(tasks) - 1] * len(self.ranks)
        return begun, done

    def _launch(self, t: int, name: str, k: int, launch: Launch | None = None) -> tuple[int, ...]:
        return self.parent.hosts.launch(self.group[t], name, launch, stage=self.p, microbatch=k)

    def _receive(self, kind: str, firsts: Sequence[int], k: int, received: bool) -> None:
        if received:
            for t, task in zip(self.ranks, firsts, strict=True):
                self.parent.receives.append((task, self._key(kind, self.p, k, t)))

    def _key(self, kind: str, to: int, k: int, t: int) -> int:
        plan = self.parent.plan
        rank = (self.d * plan.pp + to) * plan.tp + t
        return (rank * plan.microbatches + k) * 2 + (kind == "B")

    def _send(self, kind: str, to: int, k: int, done: list[int]) -> None:
        """Send what crosses the cut to a neighbouring stage, rank by rank."""
        parent = self.parent
        if not 0 <= to < parent.plan.pp:
            return
        for t, last in zip(self.ranks, done, strict=True):
            streams, traffic = self._port(kind, to, t)
            name = f"{self.p}{kind}{k}>{to}"
            after = (last, *self._launch(t, name, k))
            parent.tasks.append(Task(name, "send", streams, after, 0.0, traffic, "pp", self.p, k))
            parent.sends[self._key(kind, to, k, t)] = len(parent.tasks) - 1

    def _port(self, kind: str, to: int, t: int) -> tuple[tuple[int, ...], Traffic]:
        """Return the streams and the traffic of one rank's messages to a neighbouring stage, found once."""
        if (kind, t) not in self.ports:
            parent = self.parent
            cut = parent.lowering.stages[min(self.p, to)].output
            assert cut is not None
            source, target = self.group[t], parent.device(self.d, to, t)
            streams: tuple[int, ...] = (
                parent.stream(source, f"send to stage {to}"),
                parent.stream(target, f"receive from stage {self.p}"),
            )
            if parent.runtime.blocking_sends:
                streams = (*streams, self.compute[t])
            count = cut.forward_bytes if kind == "F" else cut.backward_bytes
            self.ports[kind, t] = streams, parent.message(source, target, count)
        return self.ports[kind, t]

    def _reside(self) -> None:
        for device in self.group:
            self.parent.residents += residents_of(self.stage, self.passes.buckets, device)
