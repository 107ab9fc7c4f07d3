"""A process for each device, as this one sees it: what it is asked, and how it is noticed that it is gone."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from mpsim.emulate.assignment import Memory, own_environment
from mpsim.emulate.failures import ProcessEnded, out_of_memory
from mpsim.emulate.parts import Part
from mpsim.emulate.under_way import UnderWay
from mpsim.emulate.wire import receive, send
from mpsim.emulate.worker import MEMORY, NUMBER, OTHER, STATUS
from mpsim.errors import MpsimError

__all__ = ["Away", "Crew", "Passed", "Worker", "passes_of", "refuse_processes"]

_START = b"s"
_RUNS = itertools.count()


class _Starter:
    """The process that has PyTorch loaded and starts those of devices, in milliseconds instead of seconds."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._words = Memory.make("words")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mpsim.emulate.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words.descriptor,
                pass_fds=[theirs.fileno()],
                env=own_environment() | {"CUDA_VISIBLE_DEVICES": ""},  # after a backward beside a GPU none may fork
                process_group=0,
            )

    def start(self) -> tuple[socket.socket, int]:
        """Return the line to a new process, and its id."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            try:
                socket.send_fds(self._line, [_START], [theirs.fileno()])
                return ours, self._number()
            except (OSError, EOFError):
                ours.close()
                said = self._words.text().strip().splitlines()
                raise MpsimError(
                    f"no process for a device could be started{': ' + said[-1] if said else ''}: use processes=False"
                ) from None

    def ended(self, process: int) -> str:
        """Return how a process that has ended did so, in words."""
        with self._lock:
            try:
                self._line.sendall(STATUS + NUMBER.pack(process))
                code = self._number()
            except (OSError, EOFError):
                return f"its process {process} has ended"
        if code >= 0:
            return f"its process {process} ended with {code}"
        how = f"its process {process} was killed by {signal.Signals(-code).name}"
        return how + " (by hand, or because the machine ran out of memory)" if code == -signal.SIGKILL else how

    def _number(self) -> int:
        found = self._line.recv(NUMBER.size, socket.MSG_WAITALL)
        if len(found) < NUMBER.size:
            raise EOFError
        return int(NUMBER.unpack(found)[0])


_starters: dict[int, _Starter] = {}  # by this process's id: one that was forked off starts its own
_starting = threading.Lock()


def _starter() -> _Starter:
    with _starting:
        known = _starters.get(os.getpid())
        if known is None or known.process.poll() is not None:
            _starters.clear()
            known = _starters[os.getpid()] = _Starter()
        return known


class Worker:
    """The process of one device, which runs the parts that it holds.

    It ends with this object, and with this process, however that ends. One that was interrupted (Ctrl-C) in the middle
    of an answer is ended and, when it is needed again, started again.

    Parameters
    ----------
    name : str
        Of the device.

    Examples
    --------
    >>> from mpsim.emulate.parts import make_parts
    >>> from mpsim.workload.example import Example
    >>> from mpsim.emulate.capture.cut import capture
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> (part,) = make_parts(capture(Example(model=model, inputs=(torch.ones(1, 2),))), model, ())
    >>> worker = Worker("left")
    >>> worker.hold(part)
    >>> passes = passes_of(part)
    >>> _ = passes.forward(0, {}, {"input": torch.ones(1, 2)})
    >>> _ = passes.backward(0, {})
    >>> passes.finish()
    >>> part.parameters["weight"].grad
    tensor([[1., 1.]])
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._parts: dict[int, Part] = {}
        self._forgotten: deque[int] = deque()
        self._lock = threading.Lock()
        self._end = ""
        self._open()

    def _open(self) -> None:
        self._starter = _starter()
        self._line, self.process = self._starter.start()
        self._closed = weakref.finalize(self, self._line.close)

    @property
    def ended(self) -> bool:
        """Whether it is gone for good."""
        return bool(self._end)

    def hold(self, part: Part) -> None:
        """Give the process a part, whose passes it then runs.

        Raises
        ------
        ProcessEnded
            It is gone.
        """
        self._parts[id(part)] = part
        part.worker = self
        self._give(part)

    def _give(self, part: Part) -> None:
        state = part.parameters | part.buffers
        moved = tuple(name for name in part.cut.moved if name in state)
        self.ask("hold", id(part), part.section(), state, moved)

    def drop(self, part: Part) -> None:
        """Take a part away; what is under way in it can still be finished."""
        if self._parts.pop(id(part), None) is not None and not self._end:
            with contextlib.suppress(ProcessEnded):
                self.ask("drop", id(part))

    def end(self) -> None:
        """End the process."""
        self._end = self._end or "its process was ended"
        self._closed()

    def forget(self, run: int) -> None:
        """Let the process forget a run, with the next thing that it is asked."""
        self._forgotten.append(run)

    def ready(self) -> None:
        """Start the process again if it was interrupted."""
        if not self._closed.alive and not self._end:
            self._open()
            for part in self._parts.values():
                self._give(part)

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Let the process do something and return its answer.

        Raises
        ------
        ProcessEnded
            It is gone.
        Exception
            Whatever went wrong there.
        """
        with self._lock:
            if self._end or not self._closed.alive:
                raise ProcessEnded(self._end) if self._end else MpsimError(f"device {self.name} was interrupted")
            try:
                while self._forgotten:
                    self._exchange("forget", self._forgotten.popleft())
                kind, value = self._exchange(verb, *arguments)
            except (EOFError, ConnectionError):
                self._closed()
                self._end = self._starter.ended(self.process)
                raise ProcessEnded(self._end) from None
            except BaseException:  # amid an answer: what comes next would be the rest of it
                self._closed()
                raise
        if kind == MEMORY and not out_of_memory(value):
            raise MemoryError(str(value))
        if kind in (MEMORY, OTHER):
            raise value
        return value

    def _exchange(self, verb: str, *arguments: Any) -> tuple[str, Any]:
        send(self._line, (verb, *arguments))
        kind, value = receive(self._line)
        return kind, value


class Crew:
    """The processes of several devices, each started when it is first needed.

    Examples
    --------
    >>> Crew().processes
    {}
    """

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    @property
    def processes(self) -> dict[str, int]:
        """The process ids, by the names of the devices."""
        return {name: worker.process for name, worker in self._workers.items()}

    def of(self, name: str) -> Worker:
        """Return the process of a device."""
        if name not in self._workers:
            self._workers[name] = Worker(name)
        return self._workers[name]

    def renew(self) -> None:
        """Forget the processes that are gone: their devices get new ones."""
        self._workers = {name: worker for name, worker in self._workers.items() if not worker.ended}

    def end(self, name: str) -> None:
        """End the process of a device."""
        if name in self._workers:
            self._workers.pop(name).end()


def refuse_processes(names: Sequence[str], places: Sequence[str | None], tp: int) -> None:
    """Refuse what processes cannot do.

    Raises
    ------
    MpsimError
        Two devices of one name, a CUDA device, or ranks that share layers.

    Examples
    --------
    >>> refuse_processes(["left", "left"], ["cpu", "cpu"], 1)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: several devices are called left: processes=True needs a name for each
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise MpsimError(f"several devices are called {twice[0]}: processes=True needs a name for each")
    elsewhere = [place for place in places if place not in (None, "cpu")]
    if elsewhere:
        raise MpsimError(f"processes=True runs parts on the CPU, a device is {elsewhere[0]}: leave processes out")
    if tp > 1:
        raise MpsimError(f"processes=True runs whole layers, the plan has tp={tp}: leave processes out, or use tp=1")
    if not hasattr(os, "memfd_create"):
        raise MpsimError(f"processes=True needs Linux, this is {sys.platform}: leave it out")


class Passed(NamedTuple):
    """What a pass of a micro-batch made; see `mpsim.emulate.flight.Flight`."""

    sends: Mapping[str, Any] = {}
    results: Mapping[str, Any] = {}
    returned: Mapping[str, Any] = {}
    feed_gradients: Mapping[str, Any] = {}


class Away:
    """Runs passes of a part in the process that holds it, as `UnderWay` does here.

    The process gets the weights as they are now. Gradients come back with `finish`; what a forward moves comes back
    with that forward.

    Parameters
    ----------
    part : Part
        Which a `Worker` holds.
    key, first : int
        As of `UnderWay`.
    """

    def __init__(self, part: Part, key: int | None = None, first: int = 0) -> None:
        self.part, self._run = part, next(_RUNS)
        self._worker: Worker = part.worker
        self._worker.ready()
        self._worker.ask("begin", self._run, id(part), key, first, part.parameters | part.buffers)
        weakref.finalize(self, self._worker.forget, self._run)

    def forward(self, microbatch: int, received: Mapping[str, Any], feeds: Mapping[str, Any]) -> Passed:
        """Run the part forward."""
        part = self.part
        own = {name: feeds[name] for name in part.feeds}
        state = part.parameters | part.buffers
        moved = {name: state[name] for name in part.cut.moved if name in state}
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        sends, results, moved = self._worker.ask("forward", self._run, microbatch, dict(received), own, moved, mode)
        with torch.no_grad():
            for name, value in moved.items():
                state[name].copy_(value)
        return Passed(sends=sends, results=results)

    def backward(self, microbatch: int, *gradients: Mapping[str, Any], weight: float = 1.0, kind: str = "B") -> Passed:
        """Run the part backward."""
        given = [dict(one) for one in gradients]
        returned, fed = self._worker.ask("backward", self._run, microbatch, given, weight, kind)
        return Passed(returned=returned, feed_gradients=fed)

    def finish(self) -> None:
        """Add the gradients that were found to those of the part's parameters."""
        for name, gradient in self._worker.ask("gradients", self._run).items():
            parameter = self.part.parameters[name]
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def passes_of(part: Part, key: int | None = None, first: int = 0) -> UnderWay | Away:
    """Return what runs passes of a part, here or in the process that holds it; see `UnderWay`."""
    return UnderWay(part, key, first) if part.worker is None else Away(part, key, first)
