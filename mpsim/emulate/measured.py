"""What a real run was, as a program and its timing, so that the accounts of a replay serve it as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mpsim.collectives.traffic import collective, point_to_point
from mpsim.emulate.assignment import Times
from mpsim.lowering.instructions import Collective, Compute, Copy, Drop, Hold, Instruction, Receive, Script, Send, Wait
from mpsim.program.model import Program, Stream, Task, Timing, Traffic
from mpsim.topology.routes import Routes

__all__ = ["Layout", "lay_out", "timing_of"]

_At = tuple[int, int]  # a rank and a step of its script


class Layout(NamedTuple):
    """A program with a task for each computation, message and collective of some scripts.

    Attributes
    ----------
    program : Program
        The tasks, as the accounts want them.
    sources : tuple
        For each task the posts by which it is known, and the ends of which the last one is its end.
    """

    program: Program
    sources: tuple[tuple[tuple[_At, ...], tuple[_At, ...]], ...]


def lay_out(scripts: Sequence[Script], routes: Routes) -> Layout:
    """Return the tasks that scripts make.

    A message is under way once both its ends are posted, and until its receiver has it; a collective once its last
    rank has posted it, and until the last one has its outcome. Its bytes on links are those of a ring.

    Examples
    --------
    >>> from mpsim.lowering.bind import collective_scripts
    >>> from mpsim.topology.builders import ring
    >>> layout = lay_out(collective_scripts([64], "all_reduce", [0, 1]), Routes(ring(2, link="1GB/s@1us")))
    >>> [(task.kind, task.streams) for task in layout.program.tasks], layout.sources
    ([('all_reduce', (0, 1))], ((((0, 0), (1, 0)), ((0, 0), (1, 0))),))
    """
    writer = _Writer(routes)
    for rank, script in enumerate(scripts):
        for i, step in enumerate(script.steps):
            writer.step(script.device, (rank, i), step)
    streams = tuple(Stream(device=device, name=name) for device, name in writer.streams)
    program = Program(streams=streams, tasks=tuple(writer.tasks))
    return Layout(program, tuple((tuple(posts), tuple(ends)) for posts, ends in writer.sources))


class _Writer:
    """Collects tasks, and where the moments of each are to be found."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.tasks: list[Task] = []
        self.sources: list[tuple[list[_At], list[_At]]] = []
        self.streams: dict[tuple[int, str], int] = {}
        self.shared: dict[int, int] = {}

    def step(self, device: int, at: _At, step: Instruction) -> None:
        if isinstance(step, Copy | Wait | Hold | Drop):  # nothing is offloaded in a real run
            return
        if isinstance(step, Compute):
            own = (self._stream(device, "compute"),)
            self._add(Task(step.name, step.kind, own, stage=step.stage, microbatch=step.microbatch))
            self.sources[-1][0].append(at)
            self.sources[-1][1].append(at)
            return
        if step.key not in self.shared:
            self.shared[step.key] = len(self.tasks)
            self._add(self._collective(step) if isinstance(step, Collective) else self._message(device, step))
        posts, ends = self.sources[self.shared[step.key]]
        posts.append(at)
        if not isinstance(step, Send):
            ends.append(at)

    def _add(self, task: Task) -> None:
        self.tasks.append(task)
        self.sources.append(([], []))

    def _stream(self, device: int, name: str) -> int:
        return self.streams.setdefault((device, name), len(self.streams))

    def _message(self, device: int, step: Send | Receive) -> Task:
        source, target = (device, step.peer) if isinstance(step, Send) else (step.peer, device)
        streams = (self._stream(source, f"to {target}"), self._stream(target, f"from {source}"))
        traffic = point_to_point(self.routes, source, target, step.bytes) if step.bytes else Traffic()
        return Task(step.name, "send", streams, (), 0.0, traffic, "pp", step.stage, step.microbatch)

    def _collective(self, step: Collective) -> Task:
        streams = tuple(self._stream(member, f"{step.axis} collectives") for member in step.group)
        traffic = collective(self.routes, step.kind, step.group, step.bytes)
        return Task(step.name, step.kind, streams, (), 0.0, traffic, step.axis, step.stage, step.microbatch)


def timing_of(layout: Layout, times: Sequence[Times]) -> Timing:
    """Return when each task ran in one trial, counted from the moment at which the first rank began.

    Parameters
    ----------
    layout : Layout
        Of the scripts that were run.
    times : sequence of Times
        Of each rank.
    """
    origin = min((rank.start_s[0] for rank in times if rank.start_s), default=0.0)
    start_s, end_s = [], []
    for posts, ends in layout.sources:
        start_s.append(max(times[rank].start_s[i] for rank, i in posts) - origin)
        end_s.append(max(max(times[rank].end_s[i] for rank, i in ends) - origin, start_s[-1]))
    return Timing(start_s=tuple(start_s), end_s=tuple(end_s))
