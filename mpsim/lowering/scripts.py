"""Write each rank's script from a lowered plan: what it computes, posts and waits for, in which order.

The order of posts and waits is that of PyTorch's own schedules (``torch.distributed.pipelining.schedules``), whose
classes differ:

- ``ScheduleGPipe`` receives right before an operation, sends right after it, and waits for its forward sends only
  before the first backward, for the others at the end;
- ``Schedule1F1B`` waits for one send before it posts the next while it warms up and cools down, and in between posts
  an operation's send together with the next one's receive, and waits for both;
- the runtime that plays any other rows (``_PipelineScheduleRuntime``) waits for its sends at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mpsim.lowering.draws import Draw
from mpsim.lowering.script import Collective, Compute, Receive, Script, Send, Step, Wait
from mpsim.lowering.segments import Passes, Segment
from mpsim.lowering.times import RankTimes, rank_times
from mpsim.plan.schedules import Operation

if TYPE_CHECKING:
    from mpsim.lowering.lower import Lowering

__all__ = ["Post", "collective_scripts", "posts", "scripts"]

_KIND = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}


class Post(NamedTuple):
    """One thing that a stage does: ``compute``, ``send`` or ``receive`` an operation, or ``wait`` for posts before."""

    do: str
    operations: tuple[tuple[str, Operation], ...]


def posts(row: Sequence[Operation], stages: int, schedule: str) -> list[Post]:
    """Return what a stage posts and waits for around its operations, as PyTorch's class for the schedule does.

    Parameters
    ----------
    row : sequence of Operation
        What the stage runs, in order.
    stages : int
        Of the pipeline.
    schedule : str
        ``1f1b``, ``gpipe``, ``naive`` or any other name.

    Examples
    --------
    >>> row = [Operation(0, "F", 0), Operation(0, "B", 0)]
    >>> [(post.do, *(str(op) for _, op in post.operations)) for post in posts(row, 2, "1f1b")]
    [('compute', '0F0'), ('send', '0F0'), ('receive', '0B0'), ('wait', '0F0', '0B0'), ('compute', '0B0')]
    """
    order = _Order(stages)
    if schedule == "1f1b":
        order.fused(row)
    else:
        order.deferred(row, at_turn=schedule in ("gpipe", "naive"))
    return order.posts


class _Order:
    """Collects the posts of one stage."""

    def __init__(self, stages: int) -> None:
        self.stages = stages
        self.posts: list[Post] = []
        self.unsent: Operation | None = None

    def receives(self, op: Operation) -> bool:
        return op.stage > 0 if op.kind == "F" else op.kind != "W" and op.stage < self.stages - 1

    def sends(self, op: Operation) -> bool:
        return op.stage < self.stages - 1 if op.kind == "F" else op.kind != "W" and op.stage > 0

    def post(self, do: str, op: Operation) -> tuple[tuple[str, Operation], ...]:
        """Post a message of an operation, if it has one, and return what to wait for."""
        if not (self.sends(op) if do == "send" else self.receives(op)):
            return ()
        self.posts.append(Post(do, ((do, op),)))
        return ((do, op),)

    def wait(self, posted: Sequence[tuple[str, Operation]]) -> None:
        if posted:
            self.posts.append(Post("wait", tuple(posted)))

    def compute(self, op: Operation) -> None:
        self.posts.append(Post("compute", (("compute", op),)))

    def deferred(self, row: Sequence[Operation], at_turn: bool) -> None:
        """Receive, compute, send; wait for sends at the end, and where `at_turn` before backward begins."""
        pending: list[tuple[str, Operation]] = []
        before = "F"
        for op in row:
            if at_turn and before == "F" and op.kind != "F":
                self.wait(pending)
                pending = []
            before = op.kind
            self.wait(self.post("receive", op))
            self.compute(op)
            pending += self.post("send", op)
        self.wait(pending)

    def fused(self, row: Sequence[Operation]) -> None:
        """Warm up, then fuse each send with the next receive, then cool down."""
        forwards = sum(op.kind == "F" for op in row)
        warm_up = next((i for i, op in enumerate(row) if op.kind != "F"), len(row))
        sent: tuple[tuple[str, Operation], ...] = ()
        for i, op in enumerate(row[:warm_up]):
            self.wait(self.post("receive", op))
            self.compute(op)
            self.wait(sent)
            sent = self.post("send", op) if i < warm_up - 1 else ()
        last = row[warm_up - 1]
        steady = warm_up + 1 + 2 * (forwards - warm_up)
        for op in row[warm_up:steady]:
            self.wait((*self.post("send", last), *self.post("receive", op)))
            self.compute(op)
            last = op
        sent = self.post("send", last)
        for op in row[steady:]:
            self.wait(self.post("receive", op))
            self.compute(op)
            self.wait(sent)
            sent = self.post("send", op)
        self.wait(sent)


def scripts(lowering: Lowering, draw: Draw | None = None) -> tuple[Script, ...]:
    """Return the script of every rank of a plan, in the order of ranks.

    Parameters
    ----------
    lowering : Lowering
        The plan as its workload and topology make it.
    draw : Draw, optional
        A trial's random times; None takes every time at its median.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> from mpsim.lowering.lower import lower
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> work = Workload.chain("two", layers, activation_bytes=64)
    >>> lowering = lower(work, parse_topology("chain:2,link=1GB/s@2us"), Plan(pp=2))
    >>> [type(step).__name__ for step in scripts(lowering)[0].steps]
    ['Compute', 'Send', 'Receive', 'Wait', 'Compute']
    """
    plan = lowering.plan
    passes = lowering.passes
    keys = _Keys()
    return tuple(
        _Writer(lowering, draw, passes, keys, d, p, t).script()
        for d in range(plan.dp)
        for p in range(plan.pp)
        for t in range(plan.tp)
    )


def collective_scripts(sizes: Sequence[int], kind: str, devices: Sequence[int]) -> tuple[Script, ...]:
    """Return the scripts of the workshop form: one collective after another, with no compute.

    Examples
    --------
    >>> [type(step).__name__ for step in collective_scripts([64], "all_reduce", [0, 1])[1].steps]
    ['Collective', 'Wait']
    """
    group = tuple(devices)
    steps: list[Step] = []
    for i, size in enumerate(sizes):
        steps += [Collective(i, f"{kind} {i}", kind, "", group, size, -1, -1), Wait((i,))]
    return tuple(
        Script(device=device, replica=0, stage=0, tp_rank=i, steps=tuple(steps)) for i, device in enumerate(group)
    )


class _Keys:
    """Numbers messages and collectives: whoever names the same thing gets the same number."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}

    def __call__(self, *what: object) -> int:
        return self._known.setdefault(what, len(self._known))


class _Writer:
    """Writes the script of one rank."""

    def __init__(
        self, lowering: Lowering, draw: Draw | None, passes: Sequence[Passes], keys: _Keys, d: int, p: int, t: int
    ) -> None:
        self.lowering, self.plan, self.keys = lowering, lowering.plan, keys
        self.d, self.p, self.t = d, p, t
        self.stage = lowering.stages[p]
        self.passes = passes[p]
        self.times: RankTimes = rank_times(lowering, draw, d, p, t)
        self.steps: list[Step] = []
        self.reductions: list[int] = []

    def device(self, d: int, p: int, t: int) -> int:
        return self.lowering.place[(d * self.plan.pp + p) * self.plan.tp + t]

    def script(self) -> Script:
        for do, operations in posts(self.lowering.rows[self.p], self.plan.pp, self.plan.schedule_name):
            if do == "wait":
                self.steps.append(Wait(tuple(self.message_key(what, op) for what, op in operations)))
            elif do == "compute":
                self.compute(operations[0][1])
            else:
                self.message(do, operations[0][1])
        self.wait(self.reductions)
        self.reduce_tied()
        if self.times.optimizer_s:
            layers = self.stage.layers
            seconds, launch = self.times.optimizer_s, self.times.launch_update
            step = Compute("update", "optimizer", seconds, self.p, -1, layers.start, layers.stop, launch)
            self.steps.append(step)
        return Script(
            device=self.device(self.d, self.p, self.t),
            replica=self.d,
            stage=self.p,
            tp_rank=self.t,
            steps=tuple(self.steps),
        )

    def wait(self, keys: Sequence[int]) -> None:
        if keys:
            self.steps.append(Wait(tuple(keys)))

    def compute(self, op: Operation) -> None:
        is_last = op == self.passes.last_operation
        for segment in self.passes.last[op.kind] if is_last else self.passes.segments[op.kind]:
            self.segment(segment, op)

    def segment(self, segment: Segment, op: Operation) -> None:
        """Run some layers, then exchange what they have ready: gradients go on their way, tensor shards are awaited."""
        first = self.stage.layers.start
        seconds = self.times.seconds(op.kind, op.microbatch, segment.first, segment.last)
        span = (first + segment.first, first + segment.last)
        launch = self.times.launch(op.kind, op.microbatch, segment.first, segment.last)
        self.steps.append(Compute(str(op), _KIND[op.kind], seconds, self.p, op.microbatch, *span, launch))
        for bucket in segment.buckets:
            group = tuple(self.device(d, self.p, self.t) for d in range(self.plan.dp))
            size = self.passes.buckets[bucket].bytes
            key = self.keys("bucket", self.p, self.t, bucket)
            self.steps.append(Collective(key, f"bucket {bucket}", "all_reduce", "dp", group, size, self.p, -1))
            self.reductions.append(key)
        group = tuple(self.device(self.d, self.p, t) for t in range(self.plan.tp))
        for i, (kind, size) in enumerate(segment.collectives):
            key = self.keys("shard", self.d, op, segment.first, i)
            self.steps += [Collective(key, str(op), kind, "tp", group, size, self.p, op.microbatch), Wait((key,))]

    def message_key(self, do: str, op: Operation) -> int:
        """Return the number of the message between this stage and the one before or behind the cut."""
        forwards = op.kind == "F"
        to = self.p + (0 if do == "receive" else 1 if forwards else -1)
        return self.keys("message", self.d, to, self.t, forwards, op.microbatch)

    def message(self, do: str, op: Operation) -> None:
        forwards = op.kind == "F"
        other = self.p + (1 if (do == "send") == forwards else -1)
        cut = self.lowering.stages[min(self.p, other)].output
        assert cut is not None
        size = cut.forward_bytes if forwards else cut.backward_bytes
        step = Send if do == "send" else Receive
        source, target = (self.p, other) if do == "send" else (other, self.p)
        name = f"{source}{'F' if forwards else 'B'}{op.microbatch}>{target}"
        key, peer = self.message_key(do, op), self.device(self.d, other, self.t)
        self.steps.append(step(key, name, peer, size, source, op.microbatch, "F" if forwards else "B"))

    def reduce_tied(self) -> None:
        """All-reduce the gradients of parameters that layers of several stages share, after each stage's own."""
        for name, count, holders in self.lowering.tied:
            if self.p in holders:
                group = tuple(self.device(self.d, p, self.t) for p in holders)
                key = self.keys("tied", self.d, self.t, name)
                step = Collective(key, f"tied {name}", "all_reduce", "pp", group, count, holders[0], -1)
                self.steps += [step, Wait((key,))]
