"""A small replay by hand, with no engine: 1F1B on dp x pp devices, sends, a gradient all-reduce, an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from mpsim.result.model import Count, DeviceUse, MemoryUse, Result, Spans, Timeline

MIB = 2**20


def order(stages: int, stage: int, microbatches: int, split: bool) -> Iterator[tuple[str, int]]:
    warm_up = min(stages - 1 - stage, microbatches)
    backward = "IW" if split else "B"
    for i in range(warm_up):
        yield "F", i
    for i in range(microbatches):
        if i + warm_up < microbatches:
            yield "F", i + warm_up
        for letter in backward:
            yield letter, i


KINDS = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}


class Replay:
    """Plays one pipeline; all times are dyadic when the given ones are."""

    def __init__(self, stages: int, microbatches: int, forward_s: float, send_s: float, split: bool) -> None:
        self.length = {"F": forward_s, "B": 2 * forward_s, "I": forward_s, "W": forward_s}
        self.send_s, self.stages = send_s, stages
        self.rows: list[tuple] = []
        self.arrived: dict[tuple[int, str, int], float] = {(0, "F", i): 0.0 for i in range(microbatches)}
        queues = [list(order(stages, stage, microbatches, split)) for stage in range(stages)]
        self.free = [0.0] * stages
        self.wire: dict[tuple[int, int], float] = {}
        while any(queues):
            for stage, queue in enumerate(queues):
                while queue and self.ready(stage, *queue[0]) is not None:
                    self.play(stage, *queue.pop(0))

    def ready(self, stage: int, letter: str, microbatch: int) -> float | None:
        if letter == "W" or (letter != "F" and stage == self.stages - 1):
            return 0.0
        return self.arrived.get((stage, "F" if letter == "F" else "B", microbatch))

    def play(self, stage: int, letter: str, microbatch: int) -> None:
        start = max(self.free[stage], self.ready(stage, letter, microbatch) or 0.0)
        end = self.free[stage] = start + self.length[letter]
        self.rows.append(
            (f"{stage}{letter}{microbatch}", KINDS[letter], "", (stage,), stage, microbatch, 0, start, end)
        )
        target = stage + 1 if letter == "F" else stage - 1
        if letter != "W" and 0 <= target < self.stages:
            self.send(stage, target, "F" if letter == "F" else "B", microbatch, end)

    def send(self, stage: int, target: int, letter: str, microbatch: int, ready: float) -> None:
        start = max(ready, self.wire.get((stage, target), 0.0))
        end = self.wire[stage, target] = self.arrived[target, letter, microbatch] = start + self.send_s
        name = f"send {stage}{letter}{microbatch} to {target}"
        self.rows.append((name, "send", "pp", (stage, target), stage, microbatch, 4 * MIB, start, end))


def covered(intervals: list[tuple[float, float]]) -> float:
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def make_result(
    *,
    stages: int = 4,
    replicas: int = 1,
    microbatches: int = 8,
    forward_s: float = 2**-10,
    send_s: float = 2**-13,
    split: bool = False,
    trial_step_s: tuple[float, ...] = (),
    capacity_bytes: int = 2**30,
    plan: str = "",
) -> Result:
    one = Replay(stages, microbatches, forward_s, send_s, split)
    rows = []
    for replica in range(replicas):
        rows += [(*row[:3], tuple(d + replica * stages for d in row[3]), *row[4:]) for row in one.rows]
    for stage in range(stages):
        devices = tuple(range(stage, stages * replicas, stages))
        done = one.free[stage]
        if replicas > 1:
            rows.append(
                (f"all-reduce {stage}", "all_reduce", "dp", devices, stage, -1, 64 * MIB, done, done + forward_s)
            )
            done += forward_s
        for device in devices:
            end = done + forward_s / 2
            rows.append((f"{stage}optimizer", "optimizer", "", (device,), stage, -1, 0, done, end))
    step_s = max(row[-1] for row in rows)
    names, kinds, axes, devices, stage_of, microbatch_of, sizes, starts, ends = zip(*rows, strict=True)
    spans = Spans(
        name=names,
        kind=kinds,
        axis=axes,
        devices=devices,
        stage=stage_of,
        microbatch=microbatch_of,
        bytes=sizes,
        start_s=starts,
        end_s=ends,
    )
    uses = tuple(
        device_use(i, i % stages, stages, [row for row in rows if i in row[3]], step_s, capacity_bytes)
        for i in range(stages * replicas)
    )
    pp_bytes = sum(row[6] for row in rows if row[2] == "pp")
    traffic = [Count(kind="send", axis="pp", transfers=axes.count("pp"), payload_bytes=pp_bytes, link_bytes=pp_bytes)]
    if replicas > 1:
        dp = {
            "transfers": stages,
            "payload_bytes": stages * 64 * MIB,
            "link_bytes": 2 * (replicas - 1) * stages * 64 * MIB,
        }
        traffic.append(Count(kind="all_reduce", axis="dp", **dp))
    n = stages * replicas
    return Result(
        workload="gpt2 (12 layers)",
        topology=f"{n} x A100 switch",
        plan=plan or f"dp={replicas} pp={stages} tp=1 micro-batches={microbatches} 1f1b",
        global_batch=microbatches * replicas * 4,
        step_s=step_s,
        trial_step_s=trial_step_s or (step_s,),
        trials=len(trial_step_s) or 100,
        deterministic=not trial_step_s,
        free_step_s=step_s - 4 * send_s,
        baseline="one device",
        baseline_step_s=n * 3.0 * forward_s * microbatches,
        fidelity="measured",
        devices=uses,
        traffic=tuple(traffic),
        spans=spans,
    )


def device_use(index: int, stage: int, stages: int, rows: list[tuple], step_s: float, capacity_bytes: int) -> DeviceUse:
    compute = [(row[7], row[8]) for row in rows if not row[2]]
    both = covered([(row[7], row[8]) for row in rows])
    compute_s = covered(compute)
    idle_s = step_s - both
    changes = [(0.0, 96 * MIB)]
    for row in sorted((row for row in rows if not row[2]), key=lambda row: row[8]):
        delta = {"forward": 24 * MIB, "backward": -24 * MIB, "backward_weight": -24 * MIB}.get(row[1], 0)
        changes.append((row[8], changes[-1][1] + delta))
    peak = max(total for _, total in changes)
    throughout = {"parameters": 16 * MIB, "gradients": 16 * MIB, "optimizer": 32 * MIB, "buffers": 32 * MIB}
    memory = MemoryUse(
        parameters_bytes=16 * MIB,
        gradients_bytes=16 * MIB,
        optimizer_bytes=32 * MIB,
        buffers_bytes=32 * MIB,
        activations_bytes=peak - 96 * MIB,
        timeline_s=tuple(time for time, _ in changes),
        timeline_bytes=tuple(total for _, total in changes),
        by_holder=(
            *(Timeline(holder=holder, time_s=(0.0,), bytes=(count,)) for holder, count in throughout.items()),
            Timeline(
                holder="activations",
                time_s=tuple(time for time, _ in changes),
                bytes=tuple(total - 96 * MIB for _, total in changes),
            ),
        ),
    )
    return DeviceUse(
        name=f"gpu{index}",
        type="A100",
        compute_s=compute_s,
        exposed_communication_s=both - compute_s,
        idle_s=idle_s,
        bubble_s=idle_s * 0.75,
        memory=memory,
        capacity_bytes=capacity_bytes,
    )


@pytest.fixture(scope="session")
def replay() -> Callable[..., Result]:
    """A function that plays 1F1B by hand and returns its result."""
    return make_result


@pytest.fixture(scope="session")
def pipeline() -> Result:
    """Four stages, eight micro-batches, sends of an eighth of a forward."""
    return make_result()


@pytest.fixture(scope="session")
def noisy(pipeline: Result) -> Result:
    """The same pipeline over 41 trials."""
    trials = tuple(pipeline.step_s * (1 + (i - 20) / 400) for i in range(41))
    return replace(pipeline, trial_step_s=trials, trials=41, deterministic=False)
