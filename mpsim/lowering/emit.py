"""Emit: from the instructions of all ranks to one program, for every runtime.

A rank computes, posts and waits. Without more said, a message goes from its sender to its receiver once it is sent,
one after another in each direction of a pair. Where a message has two ends, it leaves once both are posted
(`mpsim.lowering.wires`), and whoever waits for its send goes on once no more of it is left than its system's send
buffer holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.collectives.traffic import host_traffic
from mpsim.errors import MpsimError
from mpsim.garbage import collector_paused
from mpsim.lowering.alike import fold
from mpsim.lowering.bind import scripts
from mpsim.lowering.board import NOW, Board, Now
from mpsim.lowering.draws import Draw, delayed
from mpsim.lowering.folding import Unfolded
from mpsim.lowering.held import Held
from mpsim.lowering.hosts import HOST, Hosts
from mpsim.lowering.instructions import Collective, Compute, Copy, Drop, Hold, Key, Post, Receive, Script, Send, Wait
from mpsim.lowering.joins import Joins
from mpsim.lowering.launch import Launch
from mpsim.lowering.memory import residents_of
from mpsim.lowering.model import Lowering
from mpsim.lowering.passes import instructions_of
from mpsim.lowering.wires import Wires, message_hop
from mpsim.plan.runtimes import Runtime, resolve_runtime
from mpsim.program.model import Allocation, Program, Task, Traffic
from mpsim.topology.routes import Routes

__all__ = ["emit", "program_of"]


def program_of(lowering: Lowering, draw: Draw | None = None, *, folded: bool = False, memory: bool = True) -> Program:
    """Return the program of a plan with every time at its median, or as a trial draws it.

    Folded it has of ranks that do the same at the same moments one that stands for all (`mpsim.lowering.alike`);
    where a trial draws, all ranks differ. Without `memory` it tells times alone.

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
        written = [instructions_of(lowering, p, memory=memory) for p in range(plan.pp)]
        folding = fold(lowering, written) if folded and draw is None else Unfolded(lowering.place)
        ranks = scripts(lowering, draw, written, folding)
        player = _Player(
            lowering.routes, resolve_runtime(plan.runtime), plan.algorithm, lowering.launches, lowering.host_speed,
            folding,
        )  # fmt: skip
        player.play(ranks)
        # Replicas hold the same, and so do the ranks that share a stage.
        held = [residents_of([lowering.stages[s] for s in lowering.shape.held_by(p)], 0) for p in range(plan.pp)]
        residents = [
            one._replace(device=script.device) for script in ranks for one in held[plan.grid.at(script.rank)["pp"]]
        ]
        return Program(
            streams=player.board.streams(),
            tasks=tuple(player.board.tasks) if draw is None else delayed(player.board.tasks, draw),
            residents=tuple(residents) if memory else (),
            allocations=tuple(player.allocations) if memory else (),
            stands_for=folding.stands_for,
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
        self,
        routes: Routes,
        runtime: Runtime,
        algorithm: str,
        launches: bool = False,
        host_speed: float = 1.0,
        folding: Unfolded | None = None,
    ) -> None:
        self.routes, self.runtime = routes, runtime
        self.board, self.folding = Board(), folding or Unfolded(())
        self.wires = Wires(self.board, routes, runtime, self.folding)
        self.joins = Joins(self.board, routes, runtime, algorithm, self.wires, self.folding)
        self.hosts = Hosts(
            launches,
            runtime.launch_s / host_speed,
            self.board.add,
            lambda device: self.board.stream(device, HOST, host=True),
        )
        self.allocations: list[Allocation] = []
        self.posts: dict[float, Traffic] = {}

    def play(self, scripts: Sequence[Script]) -> None:
        """Put down the tasks of all scripts, then tie the two ends of each message together.

        A rank is followed until it waits for a reduction that others have yet to post.

        Raises
        ------
        MpsimError
            Ranks wait for reductions that each of them posts only later.
        """
        ranks = [_Rank(self, script) for script in scripts]
        while ranks:
            before = [rank.at for rank in ranks]
            ranks = [rank for rank in ranks if not rank.follow()]
            if [rank.at for rank in ranks] == before:
                ranks[0].refuse()
        self.wires.join()
        self.board.finish()


class _Rank:
    """Follows a rank: what it posts waits for what it has computed and awaited so far.

    Tasks stand in the order of its posts, which is the order in which a stream takes what is ready at one moment.
    """

    def __init__(self, player: _Player, script: Script) -> None:
        self.player, self.steps, self.device = player, script.steps, script.device
        self.board, self.runtime, self.hosts = player.board, player.runtime, player.hosts
        self.launches = player.hosts.on
        self.compute = (self.board.stream(script.device, "compute"),)
        # What the next step waits for, what its host waits for beside that, and what waits for each post end with.
        self.now = self.host = NOW
        self.ends: dict[Key, Now] = {}
        self.reductions: set[Key] = set()
        self.offloaded: dict[tuple[int, ...], int] = {}  # by stage, micro-batch and layer: the copy to the host
        self.held = Held(script.device)
        self.at = 0
        node = player.routes.topology.devices[script.device]
        self.post_s = node.post_s if self.runtime.two_ended else 0.0

    def follow(self) -> bool:
        """Go on for as long as what is waited for is known; return whether this was all."""
        begun = self.at
        for at, step in enumerate(self.steps[begun:] if begun else self.steps, start=begun):
            if type(step) is Wait:
                if self.player.joins.open(step.keys):
                    self.at = at
                    return False
                self.wait(step)
            elif type(step) is Compute:
                self.run(step)
            elif type(step) is Hold or type(step) is Drop:
                self.held.note(step)
            elif isinstance(step, (Send, Receive, Collective)):
                self.post(step)
            elif type(step) is Copy:
                self.copy(step)
        self.player.allocations += self.held.allocations
        return True

    def refuse(self) -> None:
        """Say that what the rank waits for is not posted by all before they wait for something else themselves."""
        step = self.steps[self.at]
        keys = step.keys if isinstance(step, Wait) else ()
        names = [one.name for one in self.steps if isinstance(one, Collective) and one.key in keys]
        raise MpsimError(
            f"ranks wait for each other to reduce gradients, that of device {self.device} for {', '.join(names)}:"
            " let all update their stages in one order"
        )

    def run(self, step: Compute) -> None:
        """Compute, once it is launched."""
        if self.launches:
            self.now = self.now.and_(self.launch(step, step.launch, self.host))
        after, rid = self.now
        stage, _, microbatch, _, _, seconds, *_ = step
        index = self.board.put(
            Task(step.name, step.kind, self.compute, after, seconds, None, "", stage, microbatch, rid)
        )
        self.held.ran(index)
        self.now, self.host = Now((index,)), NOW

    def wait(self, step: Wait) -> None:
        """Wait for messages and collectives; where it is the host that waits, it launches nothing meanwhile."""
        arrived = self.board.arrived
        ends = [self.ends.get(key) or (Now((arrived[key],)) if key in arrived else self.end(key)) for key in step.keys]
        self.now = self.now.and_(*ends)
        if self.reductions:
            reduced = [end for key, end in zip(step.keys, ends, strict=True) if key in self.reductions]
            self.held.reduced([max((*end.after, *end.after_buffered)) for end in reduced])
        if self.runtime.host_waits:
            self.host = self.now

    def end(self, key: Key) -> Now:
        """Return what a collective ends with, or what stands for the arrival of a message whose sender comes later."""
        return self.player.joins.end(key) or Now((self.board.arrival(key),))

    def post(self, step: Post) -> None:
        """Hand a message or a collective to the runtime, once it is launched."""
        now = self.now
        if self.launches:
            launch = Launch(self.post_s, 0.0) if self.post_s else self.hosts.message
            now = now.and_(self.launch(step, launch, now if self.runtime.host_waits else self.host))
        elif self.post_s:
            now = self.now = self.spend(step)
        end = self.hand_over(step, now)
        if end is not None:
            self.ends[step.key] = end
        self.host = NOW

    def copy(self, step: Copy) -> None:
        """Begin a copy to the host or back; what comes back must have left."""
        use = step[3:]
        streams = (self.board.stream(self.device, "to host" if step.away else "from host"),)
        traffic = host_traffic(self.player.routes, self.device, step.bytes, step.away)
        traffic = self.player.folding.traffic(traffic, (self.device,))
        kind = "offload" if step.away else "reload"
        now = self.now if step.away else self.now.and_(Now((self.offloaded[use],)))
        task = Task(step.name, kind, streams, (), 0.0, traffic, "host", step.stage, step.microbatch)
        index = self.board.add(task, now)
        self.ends[step.key] = Now((index,))
        if step.away:
            self.offloaded[use] = index
            self.held.left(step.key, index)
        else:
            self.held.came(step.key, "activations", step.bytes, index)

    def launch(self, step: Compute | Post, launch: Launch, host: Now) -> Now:
        """Launch a step once its host has done its waiting; return what the step waits for."""
        launched = self.hosts.launch(self.device, step.name, launch, stage=step.stage, microbatch=step.microbatch)
        for i in launched:
            self.board.wait(i, host)
        return Now(launched)

    def spend(self, step: Post) -> Now:
        """Spend what handing a message or a collective over takes the rank."""
        traffic = self.player.posts.setdefault(self.post_s, Traffic(latency_s=self.post_s, rounds=0))
        axis = step.axis if isinstance(step, Collective) else "pp"
        task = Task(step.name, "post", self.compute, (), 0.0, traffic, axis, step.stage, step.microbatch)
        return Now((self.board.add(task, self.now),))

    def hand_over(self, step: Post, now: Now) -> Now | None:
        """Hand a message or a collective over; return what whoever waits for it waits for, as far as that is known."""
        wires = self.player.wires
        if isinstance(step, Collective):
            if step.microbatch < 0:
                self.reductions.add(step.key)
            return self.player.joins.post(step, self.device, now)
        if isinstance(step, Receive):
            return wires.receive(self.device, message_hop(step), now)
        if self.runtime.two_ended:
            return wires.send(self.device, message_hop(step), now)
        return wires.deliver(self.device, step, now)
