"""Launching: what the host's thread does before a device's stream can run what it is given.

A rank has a host beside its streams. Whatever runs on them is launched, one thing after another; it runs when it has
been, and its stream is free. To the engine a host is one more stream, and a launch one more task on it.
"""

from __future__ import annotations

from collections.abc import Callable

from mpsim.lowering.launch import Launch
from mpsim.program.model import Task

__all__ = ["HOST", "LAUNCH", "Hosts"]

HOST, LAUNCH = "host", "launch"


class Hosts:
    """The hosts of a program's devices, as they launch one thing after another while its tasks are emitted.

    Parameters
    ----------
    on : bool
        False: launching costs nothing, and there are no hosts.
    message_s : float
        What launching a collective or a message takes.
    add : callable
        Adds a task and returns its number.
    stream : callable
        Returns the number of a device's host stream.

    Examples
    --------
    >>> tasks = []
    >>> hosts = Hosts(True, 0.0, lambda task: tasks.append(task) or len(tasks) - 1, lambda device: 7 + device)
    >>> hosts.launch(0, "0F0", Launch(2.0, 1.0))
    (0,)
    >>> [(task.kind, task.streams, task.duration_s) for task in tasks]
    [('launch', (7,), 2.0), ('launch', (7,), 1.0)]
    """

    def __init__(self, on: bool, message_s: float, add: Callable[[Task], int], stream: Callable[[int], int]) -> None:
        self.on, self.message = on, Launch(message_s, 0.0)
        self._add, self._stream = add, stream

    def launch(
        self, device: int, name: str, launch: Launch | None = None, *, stage: int = -1, microbatch: int = -1
    ) -> tuple[int, ...]:
        """Add what a device's host does next, by default for a message; return what the thing launched waits for."""
        if not self.on:
            return ()
        lead_s, rest_s = launch or self.message
        streams = (self._stream(device),)
        index = self._add(Task(name, LAUNCH, streams, (), lead_s, None, "", stage, microbatch))
        if rest_s:
            self._add(Task(name, LAUNCH, streams, (), rest_s, None, "", stage, microbatch))
        return (index,)
