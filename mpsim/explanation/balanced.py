"""The same program where launching takes no time, or where all stages take equally long."""

from __future__ import annotations

from mpsim.program.model import Program, Task

__all__ = ["balanced_durations", "durations_without_launches"]

_Place = tuple[str, int, int]


def durations_without_launches(program: Program) -> list[float]:
    """Return what each task takes where hosts launch for nothing.

    Examples
    --------
    >>> from mpsim.program.model import Stream
    >>> tasks = (Task("a", "launch", (0,), (), 1.0), Task("a", "forward", (1,), (0,), 2.0))
    >>> streams = (Stream(device=0, name="host", host=True), Stream(device=0, name="compute"))
    >>> durations_without_launches(Program(streams=streams, tasks=tasks))
    [0.0, 2.0]
    """
    host = [stream.host for stream in program.streams]
    return [0.0 if host[task.streams[0]] else task.duration_s for task in program.tasks]


def balanced_durations(program: Program) -> list[float]:
    """Return what each task takes where a pass of a micro-batch takes equally long on all stages and devices.

    That is the mean of the passes of its kind: all devices together compute as long as before. Tasks of one pass keep
    their proportion to one another, later micro-batches theirs to the first. Each host launches for as long as the mean
    of all hosts.

    Examples
    --------
    >>> from mpsim.program.model import Stream
    >>> tasks = (Task("0F0", "forward", (0,), (), 1.0, stage=0), Task("1F0", "forward", (1,), (0,), 3.0, stage=1))
    >>> streams = (Stream(device=0, name="compute"), Stream(device=1, name="compute"))
    >>> balanced_durations(Program(streams=streams, tasks=tasks))
    [2.0, 2.0]
    """
    seconds: dict[_Place, float] = {}
    parts: dict[_Place, set[int]] = {}
    places = [_place(program, task) for task in program.tasks]
    for place, task in zip(places, program.tasks, strict=True):
        if place is not None:
            seconds[place] = seconds.get(place, 0.0) + task.duration_s
            parts.setdefault(place, set()).add(task.microbatch if place[2] >= 0 else -1)
    sums: dict[str, list[float]] = {}
    for place, total in seconds.items():
        of_kind, count = sums.setdefault(place[0], [0.0, 0.0]), program.stands_for.get(place[1], 1)
        of_kind[0] += count * total
        of_kind[1] += count * len(parts[place])
    mean = {kind: total / passes for kind, (total, passes) in sums.items()}
    scale = {place: mean[place[0]] * len(parts[place]) / total if total else 1.0 for place, total in seconds.items()}
    return [
        task.duration_s if place is None else task.duration_s * scale[place]
        for place, task in zip(places, program.tasks, strict=True)
    ]


def _place(program: Program, task: Task) -> _Place | None:
    """Return the kind of a computation, its device and its stage, which is all one to a host; None of a transfer."""
    if task.traffic is not None:
        return None
    stream = program.streams[task.streams[0]]
    return task.kind, stream.device, -1 if stream.host else task.stage
