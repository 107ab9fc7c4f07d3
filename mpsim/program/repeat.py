"""Steps one after another, each begun as soon as its ranks are done with their part of the last one."""

from __future__ import annotations

from mpsim.program.model import Program, Task

__all__ = ["in_a_row"]


def in_a_row(program: Program, count: int) -> tuple[Program, list[int]]:
    """Return a program of several steps, and the number of each one's first task.

    A device begins a step when it has done whatever it takes part in of the last one; its host runs ahead.

    Examples
    --------
    >>> from mpsim.program.model import Stream
    >>> tasks = (Task("launch", "launch", (0,), duration_s=1.0), Task("a", "forward", (1,), (0,), 2.0))
    >>> streams = (Stream(device=0, name="host", host=True), Stream(device=0, name="compute"))
    >>> steps, firsts = in_a_row(Program(streams=streams, tasks=tasks), 2)
    >>> firsts, steps.tasks[2].after, steps.tasks[3].after
    ([0, 2], (), (2, 1))
    """
    own = program.tasks
    before, firsts = _ends(program), _firsts(program)
    tasks: list[Task] = []
    bases = [len(own) * step for step in range(count)]
    for base in bases:
        for i, task in enumerate(own):
            after = [base + j for j in task.after]
            if base:
                after += [base - len(own) + j for device in firsts.get(i, ()) for j in before.get(device, ())]
            buffered = tuple([base + j for j in task.after_buffered])
            tasks.append(task._replace(after=tuple(dict.fromkeys(after)), after_buffered=buffered))
    return Program(streams=program.streams, tasks=tuple(tasks)), bases


def _devices(program: Program, task: Task) -> list[int]:
    """Return the devices that a task occupies; a host is beside its device."""
    streams = [program.streams[stream] for stream in task.streams]
    return list(dict.fromkeys(stream.device for stream in streams if not stream.host))


def _ends(program: Program) -> dict[int, list[int]]:
    """Return for each device the tasks on it that no other one waits for."""
    followed = {j for task in program.tasks for j in (*task.after, *task.after_buffered)}
    last: dict[int, int] = {}
    ends: dict[int, list[int]] = {}
    for i, task in enumerate(program.tasks):
        for stream in task.streams:
            last[stream] = i
    for i, task in enumerate(program.tasks):
        if i not in followed or any(last[stream] == i for stream in task.streams):
            for device in _devices(program, task):
                ends.setdefault(device, []).append(i)
    return ends


def _firsts(program: Program) -> dict[int, list[int]]:
    """Return the tasks that begin a step on some device, each with those devices: the first one on any stream."""
    seen: set[int] = set()
    firsts: dict[int, list[int]] = {}
    for i, task in enumerate(program.tasks):
        new = [stream for stream in task.streams if stream not in seen]
        seen.update(new)
        devices = dict.fromkeys(program.streams[s].device for s in new if not program.streams[s].host)
        if devices:
            firsts[i] = list(devices)
    return firsts
