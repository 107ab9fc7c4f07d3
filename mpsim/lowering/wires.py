"""Messages from one rank to another, as tasks.

Where a message has two ends, it goes through a stream of bytes between its two ranks once both are posted, first come,
first served, and arrives a latency later. Where the runtime has notices, it leaves once the receiver's notice has come
through the stream of the other direction::

    receiver   post -- notice --.                       .-- arrived
                                 '- latency -.         |
    sender         post ......................'- bytes -+- latency -'

Otherwise it goes once it is sent, in the order of its sender's posts.
"""

from __future__ import annotations

from typing import NamedTuple

from mpsim.collectives.gloo import phases_of
from mpsim.collectives.traffic import message_traffic, point_to_point
from mpsim.errors import MpsimError
from mpsim.lowering.board import NOW, Board, Now
from mpsim.lowering.folding import Unfolded
from mpsim.lowering.instructions import Collective, Receive, Send
from mpsim.plan.runtimes import Runtime
from mpsim.program.model import Task, Traffic
from mpsim.topology.routes import Routes

__all__ = ["Hop", "Wires", "message_hop"]

# More slots than any program has tasks: what is in flight holds nobody up.
_ALL_AT_ONCE = 2**31
# A notice's bytes are too few to count, and it is no message of its own.
_NOTHING = Traffic(rounds=0)
_Which = tuple[int, int, int]


class Hop(NamedTuple):
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


def message_hop(step: Send | Receive) -> Hop:
    """Return the message of one of its two posts."""
    count = step.bytes
    return Hop(step.key, step.name, "send", "pp", step.peer, count, count, "", step.stage, step.microbatch)


class Wires:
    """Puts messages down on a board, as a runtime carries them."""

    def __init__(self, board: Board, routes: Routes, runtime: Runtime, folding: Unfolded) -> None:
        self.board, self.routes, self.runtime, self._folding = board, routes, runtime, folding
        # By message: the task that moves its bytes, and what its receiver says before.
        self._data: dict[int, int] = {}
        self._asked: dict[int, Now] = {}
        self._traffic: dict[object, Traffic] = {}
        self._ports: dict[tuple[int, int, int], tuple[tuple[int, ...], Traffic]] = {}
        # By rank and group: what its collectives so far end with.
        self._threads: dict[tuple[int, str, tuple[int, ...]], list[Now]] = {}

    def deliver(self, source: int, step: Send, now: Now) -> Now:
        """Put down a message that has one end: it goes once it is sent. Return what whoever waits for it waits for."""
        streams, traffic = self._one_way(source, step.peer, step.bytes)
        after, rid = now
        task = Task(step.name, "send", streams, after, 0.0, traffic, "pp", step.stage, step.microbatch, rid)
        self.board.arrived[step.key] = index = self.board.put(task)
        return Now((index,))

    def send(self, source: int, hop: Hop, now: Now) -> Now:
        """Put down a message's bytes and the latency behind them; return what whoever waits for its send waits for."""
        key = self.board.number(hop.key)
        data = self.board.add(hop.task(hop.kind, self._wires(source, hop), self._bytes(source, hop)), now)
        self._data[key] = data
        self.board.arrived[key] = self._flight(hop, hop.kind, source, hop.peer, data)
        return Now((), (data,))

    def receive(self, target: int, hop: Hop, now: Now) -> Now:
        """Put down a receiver's notice, where there is one; return what stands for the message's arrival."""
        key = self.board.number(hop.key)
        self._asked[key] = now
        if self.runtime.notices:
            wire = (self.board.stream(target, f"{hop.label}to {hop.peer}", 1),)
            notice = self.board.add(hop.task("notice", wire, _NOTHING), now)
            self._asked[key] = Now((self._flight(hop, "notice", target, hop.peer, notice),))
        return Now((self.board.arrival(key),))

    def join(self) -> None:
        """Tie the two ends of each message together.

        Raises
        ------
        MpsimError
            A message has one end.
        """
        for key, data in self._data.items():
            if key not in self._asked:
                raise MpsimError(f"message {self.board.tasks[data].name!r} is sent and never received")
            self.board.wait(data, self._asked[key])

    def _one_way(self, source: int, target: int, count: int) -> tuple[tuple[int, ...], Traffic]:
        """Return the streams and the traffic of a message, made once for all that are alike."""
        key = (source, target, count)
        if key not in self._ports:
            streams = self.board.stream(source, f"to {target}"), self.board.stream(target, f"from {source}")
            self._ports[key] = streams, self._message(*key)
        return self._ports[key]

    def _message(self, source: int, target: int, count: int) -> Traffic:
        """Return the traffic of a message, made once for all that are alike."""
        key = (source, target, count)
        if key not in self._traffic:
            self._traffic[key] = self._folding.traffic(message_traffic(self.routes, source, target, count), (source,))
        return self._traffic[key]

    def _wires(self, source: int, hop: Hop) -> tuple[int, ...]:
        """Return the streams that a message occupies while its bytes move."""
        to, label, stream = hop.peer, hop.label, self.board.stream
        if self.runtime.one_stream_a_pair:
            return stream(source, f"{label}with {to}", 1), stream(to, f"{label}with {source}", 1)
        return stream(source, f"{label}to {to}", 1), stream(to, f"{label}from {source}", 1)

    def _flight(self, hop: Hop, kind: str, source: int, target: int, after: int) -> int:
        """Return the task after which what left `source` is at `target`."""
        seconds = self._message(source, target, hop.bytes if kind == "send" else 0).latency_s
        if hop.kind != "send":
            seconds += self.routes.topology.devices[source].hop_s
        if not seconds:
            return after
        stream = self.board.stream
        both = (stream(source, "in flight", _ALL_AT_ONCE), stream(target, "in flight", _ALL_AT_ONCE))
        traffic = self._traffic.setdefault(("flight", seconds), Traffic(latency_s=seconds, rounds=0))
        return self.board.add(hop.task(kind, both, traffic), Now((after,)))

    def _bytes(self, source: int, hop: Hop) -> Traffic:
        """Return the traffic of a message without its latency, made once for all that are alike."""
        key = (source, hop.peer, hop.bytes, hop.payload_bytes)
        if key not in self._traffic:
            found = point_to_point(self.routes, source, hop.peer, max(hop.bytes, 1))
            held = self.routes.topology.devices[source].send_buffer_bytes
            own = Traffic(
                links=found.links,
                bytes=found.bytes,
                payload_bytes=max(hop.payload_bytes, 0),
                rounds=int(hop.payload_bytes >= 0),
                buffered_bytes=min(held, hop.bytes),
                beyond=found.beyond,
                unmeasured=found.unmeasured,
            )
            self._traffic[key] = self._folding.traffic(own, (source,))
        return self._traffic[key]

    def ring_of_two(self, step: Collective, device: int, now: Now) -> Now:
        """Follow one rank through gloo's loop, message by message.

        Between two ranks a notice and the data of the other direction share one stream, and so do the collectives
        that are in flight together: what one of them costs depends on the others, which no single event can say.
        Each is taken to begin on its rank once the last but `collectives_in_flight` - 1 before it is done.

        Of an all-gather a rank posts its send first. Whichever comes later than a notice takes, as one of two processes
        nearly always does where that is short, finds the other's there, and its own goes behind its data. So the
        second of the group is taken to come two latencies late.
        """
        before = self._threads.setdefault((device, step.axis, step.group), [])
        if len(before) >= self.runtime.collectives_in_flight:
            now = now.and_(before[-self.runtime.collectives_in_flight])
        me = step.group.index(device)
        latency_s = self.routes.latency_s(self.routes.path(*step.group))
        if step.kind == "all_gather" and me and 0 < latency_s < self.runtime.apart_s:
            now = self._later(step, device, 2 * latency_s, now)
        phases = [lengths.tolist() for lengths in phases_of(step.kind, step.bytes, 2)]
        # One segment stands for the collective in the counts: the first that is not empty.
        shown = next((p, i, r) for p, rows in enumerate(phases) for i, row in enumerate(rows) for r in (0, 1) if row[r])
        for phase, lengths in enumerate(phases):
            posted: list[Now] = []
            for i in range(len(lengths) + 2):
                now = now.and_(posted[i - 2]) if i >= 2 else now
                if i < len(lengths):
                    coming = _segment(step, (phase, i, 1 - me), shown, lengths[i][1 - me], 1 - me)
                    going = _segment(step, (phase, i, me), shown, lengths[i][me], 1 - me)
                    if step.kind == "all_gather":
                        leaves = self.send(device, going, now) if going.bytes else NOW
                        arrives = self.receive(device, coming, now) if coming.bytes else NOW
                    else:
                        arrives = self.receive(device, coming, now) if coming.bytes else NOW
                        leaves = self.send(device, going, now) if going.bytes else NOW
                    posted.append(Now(arrives.after, leaves.after_buffered))
        before.append(now)
        return now

    def _later(self, step: Collective, device: int, seconds: float, now: Now) -> Now:
        """Return a moment so much later."""
        stream = (self.board.stream(device, "in flight", _ALL_AT_ONCE),)
        traffic = self._traffic.setdefault(("flight", seconds), Traffic(latency_s=seconds, rounds=0))
        task = Task(step.name, "notice", stream, (), 0.0, traffic, step.axis, step.stage, step.microbatch)
        return Now((self.board.add(task, now),))


def _segment(step: Collective, which: _Which, shown: _Which, count: int, peer: int) -> Hop:
    """Return one segment of a collective: of which phase, step and sender."""
    key = ("segment", step.key, *which)
    label = f"{step.axis} {step.group[0]},{step.group[1]} "
    payload = step.bytes if which == shown else -1
    to = step.group[peer]
    return Hop(key, step.name, step.kind, step.axis, to, count, payload, label, step.stage, step.microbatch)
