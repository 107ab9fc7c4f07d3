"""The processes of devices: one that has loaded PyTorch and starts the others, and each of those, which runs parts.

Started by `mpsim.emulate.processes` as ``python -m mpsim.emulate.worker DESCRIPTOR``. A process ends when whoever
started it is gone: its end of the line is closed then.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Any

import torch

from mpsim.emulate.failures import out_of_memory
from mpsim.emulate.flight import Flight, Section
from mpsim.emulate.seeds import Seeds
from mpsim.emulate.under_way import UnderWay
from mpsim.emulate.wire import receive, send

__all__ = ["MEMORY", "NUMBER", "OTHER", "STATUS", "main"]

NUMBER = struct.Struct("<i")
STATUS = b"w"
MEMORY, OTHER, DONE = "memory", "other", "done"


def main(descriptor: int) -> None:
    """Start a process for each descriptor that comes, and tell how each has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this
    start = torch.ones((), requires_grad=True)
    torch.autograd.grad([start * 2], [start], [torch.ones(())])  # loads, once for all, what a first backward needs
    line = socket.socket(fileno=descriptor)
    ended: dict[int, int] = {}
    while True:
        asked, descriptors, _, _ = socket.recv_fds(line, 1, 1)
        if not asked:
            return
        _reap(ended)
        if asked == STATUS:
            (process,) = NUMBER.unpack(line.recv(NUMBER.size, socket.MSG_WAITALL))
            status = ended.pop(process, None)
            status = os.waitpid(process, 0)[1] if status is None else status
            line.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
        else:
            line.sendall(NUMBER.pack(_start(line, descriptors[0])))


def _start(line: socket.socket, descriptor: int) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            line.close()
            _serve(socket.socket(fileno=descriptor))
            code = 0
        finally:
            os._exit(code)
    os.close(descriptor)
    return process


def _reap(ended: dict[int, int]) -> None:
    """Note how processes have ended, so that none of them stays behind."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]


def _serve(line: socket.socket) -> None:
    """Answer one request after another until the other end is gone."""
    torch.set_num_threads(1)
    device = _Device()
    with contextlib.suppress(EOFError, OSError):
        while True:
            verb, *arguments = receive(line)
            try:
                answer = DONE, getattr(device, verb)(*arguments)
            except Exception as error:
                answer = (MEMORY if out_of_memory(error) else OTHER), _portable(error)
            send(line, answer)


def _portable(error: Exception) -> Exception:
    """Return an error that the other end can be sent."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _Held:
    """A part as it is here; `UnderWay` runs it as it runs one of the caller's."""

    def __init__(self, section: Section, state: Mapping[str, Any], moved: tuple[str, ...]) -> None:
        self.section, self.state, self.moved = section, state, moved
        self.layers = section.layers

    def start(self, received: Mapping[str, Any], feeds: Mapping[str, Any], seeds: Seeds | None = None) -> Flight:
        return Flight(self.section, received, feeds, seeds)

    def put(self, values: Mapping[str, Any]) -> None:
        """Take over values; what is as it was is left alone, for a backward may still need it."""
        with torch.no_grad():
            for name, value in values.items():
                if not torch.equal(self.state[name], value):
                    self.state[name].copy_(value)


class _Device:
    """What a process is asked for: each method a verb."""

    def __init__(self) -> None:
        self.parts: dict[int, _Held] = {}
        self.runs: dict[int, tuple[_Held, UnderWay]] = {}

    def hold(self, part: int, section: Section, state: dict[str, Any], moved: tuple[str, ...]) -> None:
        self.parts[part] = _Held(section, state, moved)

    def drop(self, part: int) -> None:
        self.parts.pop(part, None)

    def begin(self, run: int, part: int, key: int | None, first: int, state: dict[str, Any]) -> None:
        held = self.parts[part]
        held.put(state)
        self.runs[run] = held, UnderWay(held, key, first)  # type: ignore[arg-type]

    def forward(
        self, run: int, microbatch: int, received: dict[str, Any], feeds: dict[str, Any], moved: dict[str, Any],
        mode: tuple[bool, bool],
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:  # fmt: skip
        held, under_way = self.runs[run]
        held.put(moved)
        with torch.inference_mode(mode[1]), torch.set_grad_enabled(mode[0]):
            flight = under_way.forward(microbatch, received, feeds)
        return flight.sends, flight.results, {name: held.state[name] for name in held.moved}

    def backward(
        self, run: int, microbatch: int, gradients: list[dict[str, Any]], weight: float, kind: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        flight = self.runs[run][1].backward(microbatch, *gradients, weight=weight, kind=kind)
        return flight.returned, flight.feed_gradients

    def gradients(self, run: int) -> dict[str, Any]:
        held = self.runs[run][0]
        found = {name: value.grad for name, value in held.state.items() if value.grad is not None}
        for value in held.state.values():
            value.grad = None
        return found

    def forget(self, run: int) -> None:
        self.runs.pop(run, None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)
