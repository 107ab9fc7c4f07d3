"""Lower scripts to a program: what ranks that pass messages through a runtime do, and what the runtime does then.

A rank computes, posts and waits. A message whose two ends are posted goes through a stream of bytes between its two
ranks, first come, first served, and arrives a latency later; whoever waits for its send goes on once no more of it is
left than its system's send buffer holds. Where the runtime has notices, the message leaves once the receiver's notice
has come through the stream of the other direction::

    receiver   post -- notice --.                       .-- arrived
                                 '- latency -.         |
    sender         post ......................'- bytes -+- latency -'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mpsim.collectives.gloo import gloo_collective, phase_lengths
from mpsim.collectives.traffic import collective, point_to_point
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Draw, delayed
from mpsim.lowering.launching import HOST, Hosts
from mpsim.lowering.memory import allocations_of, residents_of
from mpsim.lowering.script import Collective, Compute, Receive, Script, Send, Wait
from mpsim.lowering.times import Launch
from mpsim.plan.runtimes import resolve_runtime
from mpsim.program.model import Allocation, Program, Stream, Task, Traffic

if TYPE_CHECKING:
    from mpsim.lowering.lower import Lowering
    from mpsim.plan.runtimes import Runtime
    from mpsim.topology.routes import Routes

__all__ = ["emit_scripts", "play_scripts"]

# More slots than any program has tasks: what is in flight holds nobody up.
_ALL_AT_ONCE = 2**31
# A notice's bytes are too few to count, and it is no message of its own.
_NOTHING = Traffic(rounds=0)


class _Now(NamedTuple):
    """What a rank waits for before its next step: tasks that must have ended, and sends it must be rid of."""

    after: tuple[int, ...] = ()
    after_buffered: tuple[int, ...] = ()

    def and_(self, *others: _Now) -> _Now:
        """Return both, and these, each once: what many collectives wait for would be counted over and over."""
        return _Now(
            tuple(dict.fromkeys((*self.after, *(i for other in others for i in other.after)))),
            tuple(dict.fromkeys((*self.after_buffered, *(i for other in others for i in other.after_buffered)))),
        )


class _Hop(NamedTuple):
    """A message as one of its ends sees it; `payload_bytes` is what it counts for, -1 if it is a part of something."""

    key: object
    name: str
    kind: str
    axis: str
    peer: int
    bytes: int
    payload_bytes: int
    label: str
    stage: int
    microbatch: int

    def task(self, kind: str, streams: tuple[int, ...], traffic: Traffic) -> Task:
        """Return a task of this message."""
        return Task(self.name, kind, streams, (), 0.0, traffic, self.axis, self.stage, self.microbatch)


def _hop(step: Send | Receive) -> _Hop:
    key = ("message", step.key)
    return _Hop(key, step.name, "send", "pp", step.peer, step.bytes, step.bytes, "", step.stage, step.microbatch)


_Which = tuple[int, int, int]


def _segment(step: Collective, which: _Which, shown: _Which, count: int, peer: int) -> _Hop:
    """Return one segment of an all-reduce: of which phase, step and sender."""
    key = ("segment", step.key, *which)
    label = f"{step.axis} {step.group[0]},{step.group[1]} "
    payload = step.bytes if which == shown else -1
    to = step.group[peer]
    return _Hop(key, step.name, step.kind, step.axis, to, count, payload, label, step.stage, step.microbatch)


def emit_scripts(lowering: Lowering, scripts: Sequence[Script], draw: Draw | None) -> Program:
    """Return the program that the ranks of a plan make together, with its memory."""
    plan = lowering.plan
    player = _Player(
        lowering.routes, resolve_runtime(plan.runtime), plan.algorithm, lowering.launches, lowering.host_speed
    )
    player.play(scripts)
    passes, residents = lowering.passes, []
    allocations: list[Allocation] = []
    for script in scripts:
        stage = lowering.stages[script.stage]
        residents += residents_of(stage, passes[script.stage].buckets, script.device)
        ran, reduced = player.ran[script.device], player.reduced[script.device]
        allocations += allocations_of(stage, script.device, player.tasks, ran, reduced)
    return Program(
        streams=player.stream_list(),
        tasks=tuple(player.tasks) if draw is None else delayed(player.tasks, draw),
        residents=tuple(residents),
        allocations=tuple(allocations),
    )


def play_scripts(routes: Routes, scripts: Sequence[Script], runtime: str, algorithm: str = "ring") -> Program:
    """Return the program that some scripts make together under a runtime.

    Examples
    --------
    >>> from mpsim.lowering.scripts import collective_scripts
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.routes import Routes
    >>> scripts = collective_scripts([64, 64], "all_reduce", [0, 1, 2])
    >>> len(play_scripts(Routes(ring(3, link="1GB/s@1ms")), scripts, "torch-gloo").tasks)
    2
    """
    player = _Player(routes, resolve_runtime(runtime), algorithm)
    player.play(scripts)
    return Program(streams=player.stream_list(), tasks=tuple(player.tasks))


class _Player:
    """Turns steps into tasks, rank by rank."""

    def __init__(
        self, routes: Routes, runtime: Runtime, algorithm: str, launches: bool = False, host_speed: float = 1.0
    ) -> None:
        self.routes, self.runtime, self.algorithm = routes, runtime, algorithm
        self.tasks: list[Task] = []
        self.streams: dict[tuple[int, str, int, bool], int] = {}
        self.hosts = Hosts(
            launches,
            runtime.launch_s / host_speed,
            lambda task: self._add(task, _Now()),
            lambda device: self._stream(device, HOST, host=True),
        )
        self.after: list[list[int]] = []
        self.after_buffered: list[list[int]] = []
        # By message: the task that moves its bytes, the one that ends when they arrive, what its receiver says before.
        self.data: dict[int, int] = {}
        self.arrived: dict[int, int] = {}
        self.asked: dict[int, _Now] = {}
        self.numbers: dict[object, int] = {}
        self.collectives: dict[int, int] = {}
        # By rank and group: what its collectives so far end with.
        self.threads: dict[tuple[int, str, tuple[int, ...]], list[_Now]] = {}
        self.traffic: dict[object, Traffic] = {}
        # By device: the tasks that compute, and those that reduce its gradients.
        self.ran: dict[int, list[int]] = {}
        self.reduced: dict[int, list[int]] = {}

    def stream_list(self) -> tuple[Stream, ...]:
        """Return the streams made so far."""
        return tuple(Stream(device=device, name=name, slots=n, host=host) for device, name, n, host in self.streams)

    def play(self, scripts: Sequence[Script]) -> None:
        """Append the tasks of all scripts, then tie the two ends of each message together."""
        for script in scripts:
            self._rank(script)
        for key, data in self.data.items():
            if key not in self.asked:
                raise MpsimError(f"message {self.tasks[data].name!r} is sent and never received")
            self.after[data] += self.asked[key].after
            self.after_buffered[data] += self.asked[key].after_buffered
        for i, (found, rid) in enumerate(zip(self.after, self.after_buffered, strict=True)):
            done = dict.fromkeys(self.arrived[-1 - j] if j < 0 else j for j in found)
            self.tasks[i] = self.tasks[i]._replace(after=tuple(done), after_buffered=tuple(dict.fromkeys(rid)))

    def _stream(self, device: int, name: str, slots: int = 0, host: bool = False) -> int:
        return self.streams.setdefault((device, name, slots, host), len(self.streams))

    def _add(self, task: Task, now: _Now) -> int:
        self.tasks.append(task)
        self.after.append(list(now.after))
        self.after_buffered.append(list(now.after_buffered))
        return len(self.tasks) - 1

    def _send(self, source: int, hop: _Hop, now: _Now) -> int:
        """Add a message's bytes and the latency behind them; return the task after which its buffer is free."""
        wires, traffic = self._wires(source, hop), self._bytes(source, hop)
        data = self._add(hop.task(hop.kind, wires, traffic), now)
        key = self._number(hop.key)
        self.data[key] = data
        self.arrived[key] = self._flight(hop, hop.kind, source, hop.peer, data)
        return data

    def _receive(self, target: int, hop: _Hop, now: _Now) -> int:
        """Add a receiver's notice, where there is one; return what stands for the message's arrival."""
        key = self._number(hop.key)
        self.asked[key] = now
        if self.runtime.notices:
            wire = (self._stream(target, f"{hop.label}to {hop.peer}", 1),)
            notice = self._add(hop.task("notice", wire, _NOTHING), now)
            self.asked[key] = _Now((self._flight(hop, "notice", target, hop.peer, notice),))
        return -1 - key

    def _number(self, key: object) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def _wires(self, source: int, hop: _Hop) -> tuple[int, ...]:
        """Return the streams that a message occupies while its bytes move."""
        to, label = hop.peer, hop.label
        if self.runtime.one_stream_a_pair:
            return self._stream(source, f"{label}with {to}", 1), self._stream(to, f"{label}with {source}", 1)
        return self._stream(source, f"{label}to {to}", 1), self._stream(to, f"{label}from {source}", 1)

    def _flight(self, hop: _Hop, kind: str, source: int, target: int, after: int) -> int:
        """Return the task after which what left `source` is at `target`."""
        seconds = self.routes.latency_s(self.routes.path(source, target))
        if kind == "send" and hop.bytes > 0:
            seconds = point_to_point(self.routes, source, target, hop.bytes).latency_s
        if hop.kind != "send":
            seconds += self.routes.topology.devices[source].hop_s
        if not seconds:
            return after
        both = (self._stream(source, "in flight", _ALL_AT_ONCE), self._stream(target, "in flight", _ALL_AT_ONCE))
        traffic = self.traffic.setdefault(("flight", seconds), Traffic(latency_s=seconds, rounds=0))
        return self._add(hop.task(kind, both, traffic), _Now((after,)))

    def _bytes(self, source: int, hop: _Hop) -> Traffic:
        """Return the traffic of a message without its latency, made once for all that are alike."""
        key = (source, hop.peer, hop.bytes, hop.payload_bytes)
        if key not in self.traffic:
            found = point_to_point(self.routes, source, hop.peer, max(hop.bytes, 1))
            held = self.routes.topology.devices[source].send_buffer_bytes
            self.traffic[key] = Traffic(
                links=found.links,
                bytes=found.bytes,
                payload_bytes=max(hop.payload_bytes, 0),
                rounds=int(hop.payload_bytes >= 0),
                buffered_bytes=min(held, hop.bytes),
                beyond=found.beyond,
                unmeasured=found.unmeasured,
            )
        return self.traffic[key]

    def _collective(self, kind: str, group: tuple[int, ...], count: int) -> Traffic:
        key = (kind, group, count)
        if key not in self.traffic:
            self.traffic[key] = (
                gloo_collective(self.routes, kind, group, count, self.runtime.reduce_bytes_per_s)
                if self.runtime.gloo_collectives
                else collective(self.routes, kind, group, count, algorithm=self.algorithm)
            )
        return self.traffic[key]

    def _rank(self, script: Script) -> None:
        """Follow a rank: what it posts waits for what it has computed and awaited so far.

        Tasks stand in the order of its posts, which is the order in which a stream takes what is ready at one moment.
        A message to come has a number below 0 until its sender has been followed too.
        """
        now = host = _Now()
        ends: dict[int, _Now] = {}
        device = script.device
        compute = (self._stream(device, "compute"),)
        self.ran[device], self.reduced[device] = [], []
        for step in script.steps:
            if isinstance(step, Wait):
                now = now.and_(*(ends[key] for key in step.keys))
                host = now if self.runtime.host_waits else host
                continue
            if isinstance(step, Compute):
                now = now.and_(self._launch(step, step.launch, device, host))
                now = _Now((self._compute(step, compute, device, now),))
            elif self.hosts.on:
                seconds = self.routes.topology.devices[device].post_s
                before = now if self.runtime.host_waits else host
                launched = self._launch(step, Launch(seconds, 0.0) if seconds else self.hosts.message, device, before)
                ends[step.key] = self._hand_over(step, device, now.and_(launched))
            else:
                now = self._post(step, device, now)
                ends[step.key] = self._hand_over(step, device, now)
            host = _Now()

    def _launch(self, step: Compute | Send | Receive | Collective, launch: Launch, device: int, host: _Now) -> _Now:
        """Launch a step once its host has done its waiting; return what the step waits for."""
        launched = self.hosts.launch(device, step.name, launch, stage=step.stage, microbatch=step.microbatch)
        for i in launched:
            self.after[i] += host.after
            self.after_buffered[i] += host.after_buffered
        return _Now(launched)

    def _hand_over(self, step: Send | Receive | Collective, device: int, now: _Now) -> _Now:
        """Hand a message or a collective to the runtime; return what whoever waits for it waits for."""
        match step:
            case Send():
                return _Now((), (self._send(device, _hop(step), now),))
            case Receive():
                return _Now((self._receive(device, _hop(step), now),))
            case Collective():
                joined = self._join(step, device, now)
                if step.microbatch < 0:
                    self.reduced[device] += [i for i in joined.after if i >= 0]
                return joined

    def _post(self, step: Send | Receive | Collective, device: int, now: _Now) -> _Now:
        """Spend what handing a message or a collective over takes the rank."""
        seconds = self.routes.topology.devices[device].post_s
        if not seconds:
            return now
        traffic = self.traffic.setdefault(("post", seconds), Traffic(latency_s=seconds, rounds=0))
        stream, axis = (self._stream(device, "compute"),), getattr(step, "axis", "pp")
        return _Now(
            (self._add(Task(step.name, "post", stream, (), 0.0, traffic, axis, step.stage, step.microbatch), now),)
        )

    def _compute(self, step: Compute, stream: tuple[int, ...], device: int, now: _Now) -> int:
        task = Task(step.name, step.kind, stream, (), step.seconds, None, "", step.stage, step.microbatch)
        index = self._add(task, now)
        self.ran[device].append(index)
        return index

    def _join(self, step: Collective, device: int, now: _Now) -> _Now:
        """Return what a rank waits for that waits for a collective."""
        if self.runtime.gloo_collectives and step.kind == "all_reduce" and len(step.group) == 2:
            return self._ring_of_two(step, device, now)
        return _Now((self._one_event(step, now),))

    def _one_event(self, step: Collective, now: _Now) -> int:
        """Return the task of a collective, made by the first rank that posts it; it waits for all that do."""
        if step.key not in self.collectives:
            slots = self.runtime.collectives_in_flight
            name = f"{step.axis} collectives"
            streams = tuple(self._stream(member, name, slots) for member in step.group)
            traffic = self._collective(step.kind, step.group, step.bytes)
            task = Task(step.name, step.kind, streams, (), 0.0, traffic, step.axis, step.stage, step.microbatch)
            self.collectives[step.key] = self._add(task, _Now())
        index = self.collectives[step.key]
        self.after[index] += now.after
        self.after_buffered[index] += now.after_buffered
        return index

    def _ring_of_two(self, step: Collective, device: int, now: _Now) -> _Now:
        """Follow one rank through gloo's loop, message by message.

        Between two ranks a notice and the data of the other direction share one stream, and so do the collectives
        that are in flight together: what one of them costs depends on the others, which no single event can say.
        Each is taken to begin on its rank once the last but `collectives_in_flight` - 1 before it is done.
        """
        before = self.threads.setdefault((device, step.axis, step.group), [])
        if len(before) >= self.runtime.collectives_in_flight:
            now = now.and_(before[-self.runtime.collectives_in_flight])
        me = step.group.index(device)
        phases = [lengths.tolist() for lengths in phase_lengths(step.bytes, 2)]
        # One segment stands for the collective in the counts: the first that is not empty.
        shown = next((p, i, r) for p, rows in enumerate(phases) for i, row in enumerate(rows) for r in (0, 1) if row[r])
        for phase, lengths in enumerate(phases):
            posted: list[_Now] = []
            for i in range(len(lengths) + 2):
                now = now.and_(posted[i - 2]) if i >= 2 else now
                if i < len(lengths):
                    coming = _segment(step, (phase, i, 1 - me), shown, lengths[i][1 - me], 1 - me)
                    going = _segment(step, (phase, i, me), shown, lengths[i][me], 1 - me)
                    arrives = (self._receive(device, coming, now),) if coming.bytes else ()
                    posted.append(_Now(arrives, (self._send(device, going, now),) if going.bytes else ()))
        before.append(now)
        return now
