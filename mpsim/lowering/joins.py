"""Collectives as tasks: each is one, which waits for all ranks of its group and occupies a stream of each."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.collectives.gloo import OWN_KINDS, gloo_collective
from mpsim.collectives.mapping import algorithm_of
from mpsim.collectives.traffic import collective
from mpsim.lowering.board import NOW, Board, Now
from mpsim.lowering.folding import Unfolded
from mpsim.lowering.instructions import Collective, Key, Listed, Shard
from mpsim.lowering.wires import Wires
from mpsim.plan.runtimes import Runtime
from mpsim.program.model import Task, Traffic
from mpsim.topology.routes import Routes

__all__ = ["Joins"]


class Joins:
    """Puts collectives down on a board, as a runtime runs them.

    Where a device has one stream for all its reductions of gradients, they stand there in the order in which they are
    first waited for once all have posted them. Experts, which fewer ranks reduce than all else, have streams of their
    own.
    """

    def __init__(
        self, board: Board, routes: Routes, runtime: Runtime, algorithm: str, wires: Wires, folding: Unfolded
    ) -> None:
        self.board, self.routes, self.runtime, self._folding = board, routes, runtime, folding
        self._algorithm, self._wires = algorithm, wires
        self._tasks: dict[Key, int] = {}
        # Reductions that nobody waits for yet, and what the ranks wait for that have posted them.
        self._open: dict[Key, tuple[Collective, list[Now]]] = {}
        # What each of those has to come behind, as its ranks say.
        self._before: dict[Key, list[Key]] = {}
        self._traffic: dict[object, Traffic] = {}

    def post(self, step: Collective, device: int, now: Now) -> Now | None:
        """Take a rank's post; return what whoever waits for it waits for, None while that is not known."""
        if self.runtime.gloo_collectives and step.kind in OWN_KINDS and len(step.group) == 2:
            return self._wires.ring_of_two(step, device, now)
        if self.runtime.collectives_in_flight or isinstance(step.of, Shard) or step.microbatch >= 0:
            if step.key not in self._tasks:
                self._tasks[step.key] = self._put(step)
            if step.behind in self._tasks:
                now = now.and_(Now((self._tasks[step.behind],)))
            self.board.wait(self._tasks[step.key], now)
            return Now((self._tasks[step.key],))
        self._open.setdefault(step.key, (step, []))[1].append(now)
        if step.behind is not None:
            self._before.setdefault(step.key, []).append(step.behind)
        return None

    def open(self, keys: Sequence[Key]) -> bool:
        """Whether any of these waits for a rank that has yet to post it."""
        if not self._open:
            return False
        found = [self._open[key] for key in keys if key in self._open]
        return any(len(posted) < len(self._folding.members(step.group)) for step, posted in found) or any(
            self.open(self._before[key]) for key in keys if key in self._before
        )

    def close(self, key: Key) -> None:
        """Put down a reduction that waits for the ranks that have posted it."""
        if key in self._open:
            step, posted = self._open.pop(key)
            before = self._before.pop(key, ())
            for each in before:
                self.close(each)
            behind = [Now((self._tasks[each],)) for each in before]
            self._tasks[key] = self._put(step, NOW.and_(*posted, *behind))

    def end(self, key: Key) -> Now | None:
        """Return what whoever waits for a collective waits for, where this knows of one."""
        if self._open:
            self.close(key)
        return Now((self._tasks[key],)) if key in self._tasks else None

    def _put(self, step: Collective, now: Now = NOW) -> int:
        streams = tuple(self._stream(member, step) for member in self._folding.members(step.group))
        listed = isinstance(step.of, Listed)  # its algorithm was asked for by name
        algorithm = self._algorithm if listed else algorithm_of(step.kind, self._algorithm)
        traffic = self._traffic_of(step.kind, step.group, step.bytes, algorithm)
        task = Task(step.name, step.kind, streams, (), 0.0, traffic, step.axis, step.stage, step.microbatch)
        return self.board.add(task, now)

    def _stream(self, device: int, step: Collective) -> int:
        """Return the stream of a device's collectives along an axis; all reductions of gradients may share one."""
        slots = self.runtime.collectives_in_flight
        experts = "experts' " * step.experts
        if slots:
            # Groups have communicators of their own.
            of = "collectives" if step.behind is None else "replicas"
            return self.board.stream(device, f"{step.axis} {experts}{of}", slots)
        if step.behind is not None:
            return self.board.stream(device, "replicas")
        of_pass = step.axis if isinstance(step.of, Shard) else f"{experts}gathers"
        return self.board.stream(device, of_pass if step.microbatch >= 0 else f"{experts}gradients")

    def _traffic_of(self, kind: str, group: tuple[int, ...], count: int, algorithm: str) -> Traffic:
        """Return the traffic of a collective, made once for all that are alike."""
        key = (kind, group, count)
        if key not in self._traffic:
            found = (
                gloo_collective(self.routes, kind, group, count, self.runtime.reduce_bytes_per_s)
                if self.runtime.gloo_collectives
                else collective(self.routes, kind, group, count, algorithm=algorithm)
            )
            self._traffic[key] = self._folding.traffic(found, group)
        return self._traffic[key]
