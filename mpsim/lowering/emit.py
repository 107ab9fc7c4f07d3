"""Emit: from the instructions of all ranks to one program, for every runtime.

A rank computes, posts and waits. Without more said, a message goes from its sender to its receiver once it is sent,
one after another in each direction of a pair. Where a message has two ends, it leaves once both are posted
(`mpsim.lowering.wires`), and whoever waits for its send goes on once no more of it is left than its system's send
buffer holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.collectives.gloo import gloo_collective
from mpsim.collectives.traffic import collective
from mpsim.garbage import collector_paused
from mpsim.lowering.bind import scripts
from mpsim.lowering.board import NOW, Board, Now
from mpsim.lowering.draws import Draw, delayed
from mpsim.lowering.hosts import HOST, Hosts
from mpsim.lowering.instructions import Collective, Compute, Drop, Hold, Post, Receive, Script, Send, Wait
from mpsim.lowering.launch import Launch
from mpsim.lowering.memory import allocations_of, residents_of
from mpsim.lowering.model import Lowering
from mpsim.lowering.wires import Wires, message_hop
from mpsim.plan.runtimes import Runtime, resolve_runtime
from mpsim.program.model import Program, Task, Traffic
from mpsim.topology.routes import Routes

__all__ = ["emit", "program_of"]


def program_of(lowering: Lowering, draw: Draw | None = None) -> Program:
    """Return the program of a plan with every time at its median, or as a trial draws it.

    Examples
    --------
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> work = Workload.chain("two", layers, activation_bytes=64)
    >>> program = program_of(lower(work, parse_topology("chain:2,link=1GB/s@2us"), Plan(pp=2)))
    >>> [task.name for task in program.tasks]
    ['0F0', '0F0>1', '0B0', '1F0', '1B0', '1B0>0']
    """
    with collector_paused():
        plan = lowering.plan
        ranks = scripts(lowering, draw)
        player = _Player(
            lowering.routes, resolve_runtime(plan.runtime), plan.algorithm, lowering.launches, lowering.host_speed
        )
        player.play(ranks)
        residents, allocations = [], []
        for script in ranks:
            rank = script.rank // plan.tp % plan.pp
            for stage in (lowering.stages[s] for s, home in enumerate(lowering.shape.home) if home == rank):
                residents += residents_of(stage, stage.buckets, script.device)
                ran, reduced = player.ran[script.device], player.reduced[script.device]
                allocations += allocations_of(stage, script.device, player.board.tasks, ran, reduced)
        return Program(
            streams=player.board.streams(),
            tasks=tuple(player.board.tasks) if draw is None else delayed(player.board.tasks, draw),
            residents=tuple(residents),
            allocations=tuple(allocations),
        )


def emit(routes: Routes, scripts: Sequence[Script], runtime: str, algorithm: str = "ring") -> Program:
    """Return the program that the instructions of some ranks make together under a runtime.

    Examples
    --------
    >>> from mpsim.lowering.bind import collective_scripts
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> scripts = collective_scripts([64, 64], "all_reduce", [0, 1, 2])
    >>> len(emit(Routes(ring(3, link="1GB/s@1ms")), scripts, "torch-gloo").tasks)
    2
    """
    player = _Player(routes, resolve_runtime(runtime), algorithm)
    player.play(scripts)
    return Program(streams=player.board.streams(), tasks=tuple(player.board.tasks))


class _Player:
    """Turns instructions into tasks, rank by rank."""

    def __init__(
        self, routes: Routes, runtime: Runtime, algorithm: str, launches: bool = False, host_speed: float = 1.0
    ) -> None:
        self.routes, self.runtime, self.algorithm = routes, runtime, algorithm
        self.board = Board()
        self.wires = Wires(self.board, routes, runtime)
        self.hosts = Hosts(
            launches,
            runtime.launch_s / host_speed,
            self.board.add,
            lambda device: self.board.stream(device, HOST, host=True),
        )
        self.collectives: dict[int, int] = {}
        self.traffic: dict[object, Traffic] = {}
        # By device: the tasks that compute, and those that reduce its gradients.
        self.ran: dict[int, list[int]] = {}
        self.reduced: dict[int, list[int]] = {}

    def play(self, scripts: Sequence[Script]) -> None:
        """Put down the tasks of all scripts, then tie the two ends of each message together."""
        for script in scripts:
            self._rank(script)
        self.wires.join()
        self.board.finish()

    def _rank(self, script: Script) -> None:
        """Follow a rank: what it posts waits for what it has computed and awaited so far.

        Tasks stand in the order of its posts, which is the order in which a stream takes what is ready at one moment.
        """
        now = host = NOW
        ends: dict[int, Now] = {}
        device = script.device
        compute = (self.board.stream(device, "compute"),)
        self.ran[device], self.reduced[device] = [], []
        for step in script.steps:
            if isinstance(step, Wait):
                now = now.and_(*(ends[key] for key in step.keys))
                host = now if self.runtime.host_waits else host
                continue
            if isinstance(step, Hold | Drop):
                continue
            if isinstance(step, Compute):
                now = now.and_(self._launch(step, step.launch, device, host)) if self.hosts.on else now
                now = Now((self._compute(step, compute, device, now),))
            elif isinstance(step, Receive) and not self.runtime.two_ended:
                ends[step.key] = self.wires.receive(device, message_hop(step), now)
                continue
            elif self.hosts.on:
                before = now if self.runtime.host_waits else host
                launched = self._launch(step, self._launch_of_post(device), device, before)
                ends[step.key] = self._hand_over(step, device, now.and_(launched))
            else:
                now = self._post(step, device, now)
                ends[step.key] = self._hand_over(step, device, now)
            host = NOW

    def _launch(self, step: Compute | Post, launch: Launch, device: int, host: Now) -> Now:
        """Launch a step once its host has done its waiting; return what the step waits for."""
        launched = self.hosts.launch(device, step.name, launch, stage=step.stage, microbatch=step.microbatch)
        for i in launched:
            self.board.wait(i, host)
        return Now(launched)

    def _launch_of_post(self, device: int) -> Launch:
        seconds = self.routes.topology.devices[device].post_s if self.runtime.two_ended else 0.0
        return Launch(seconds, 0.0) if seconds else self.hosts.message

    def _hand_over(self, step: Post, device: int, now: Now) -> Now:
        """Hand a message or a collective to the runtime; return what whoever waits for it waits for."""
        match step:
            case Send():
                return self.wires.send(device, message_hop(step), now)
            case Receive():
                return self.wires.receive(device, message_hop(step), now)
            case Collective():
                joined = self._join(step, device, now)
                if step.microbatch < 0:
                    self.reduced[device] += [i for i in joined.after if i >= 0]
                return joined

    def _post(self, step: Post, device: int, now: Now) -> Now:
        """Spend what handing a message or a collective over takes the rank."""
        seconds = self.routes.topology.devices[device].post_s if self.runtime.two_ended else 0.0
        if not seconds:
            return now
        traffic = self.traffic.setdefault(("post", seconds), Traffic(latency_s=seconds, rounds=0))
        stream, axis = (self.board.stream(device, "compute"),), getattr(step, "axis", "pp")
        task = Task(step.name, "post", stream, (), 0.0, traffic, axis, step.stage, step.microbatch)
        return Now((self.board.add(task, now),))

    def _compute(self, step: Compute, stream: tuple[int, ...], device: int, now: Now) -> int:
        task = Task(step.name, step.kind, stream, (), step.seconds, None, "", step.stage, step.microbatch)
        index = self.board.add(task, now)
        self.ran[device].append(index)
        return index

    def _join(self, step: Collective, device: int, now: Now) -> Now:
        """Return what a rank waits for that waits for a collective."""
        if self.runtime.gloo_collectives and step.kind == "all_reduce" and len(step.group) == 2:
            return self.wires.ring_of_two(step, device, now)
        if step.key not in self.collectives:
            streams = tuple(self._collective_stream(member, step.axis) for member in step.group)
            traffic = self._collective(step.kind, step.group, step.bytes)
            task = Task(step.name, step.kind, streams, (), 0.0, traffic, step.axis, step.stage, step.microbatch)
            self.collectives[step.key] = self.board.add(task)
        index = self.collectives[step.key]
        self.board.wait(index, now)
        return Now((index,))

    def _collective_stream(self, device: int, axis: str) -> int:
        """Return the stream of a device's collectives along an axis; all reductions of gradients may share one."""
        slots = self.runtime.collectives_in_flight
        if slots:
            return self.board.stream(device, f"{axis} collectives", slots)
        return self.board.stream(device, "tp") if axis == "tp" else self.board.stream(device, "gradients", 1)

    def _collective(self, kind: str, group: tuple[int, ...], count: int) -> Traffic:
        key = (kind, group, count)
        if key not in self.traffic:
            self.traffic[key] = (
                gloo_collective(self.routes, kind, group, count, self.runtime.reduce_bytes_per_s)
                if self.runtime.gloo_collectives
                else collective(self.routes, kind, group, count, algorithm=self.algorithm)
            )
        return self.traffic[key]
