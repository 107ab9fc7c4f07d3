"""How close the fabric's links come to what was asked for: ``python benchmarks/fabric.py [--repeats N]``; needs root.

Processes in namespaces, plain TCP sockets between them, no torch. A message takes latency + bytes / bandwidth if the
links are what they should be. Three things are measured on each star of 2 and 4 ranks: half of the round trip of 8
bytes; one message of 1 MiB, from the sender's first write to the receiver's last byte; and 4 MiB from every rank to
the next, all at once. Beside them, what of one processor the switch takes while every rank sends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO

from mpsim import parse_topology
from mpsim.emulate.fabric import Fabric, open_fabric

ONE, ALL = 2**20, 4 * 2**20
PORT = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    ranks: int
    mbit_per_s: int
    latency_s: float
    small_s: float
    one_s: float
    all_s: float
    switch_fraction: float

    def text(self) -> str:
        rate = self.mbit_per_s * 1e6 / 8
        one_s, all_s = self.latency_s + ONE / rate, self.latency_s + ALL / rate
        return (
            f"| {self.ranks} | {self.mbit_per_s} | {self.latency_s * 1e3:g} | {self.small_s * 1e3:.3f} | "
            f"{self.one_s * 1e3:.2f} | {100 * (self.one_s / one_s - 1):+.1f} % | "
            f"{self.all_s * 1e3:.2f} | {100 * (self.all_s / all_s - 1):+.1f} % | {100 * self.switch_fraction:.0f} % |"
        )


HEAD = """\
| ranks | Mbit/s | latency (ms) | 8 B (ms) | 1 MiB (ms) | error | 4 MiB from all at once (ms) | error | switch |
|---|---|---|---|---|---|---|---|---|"""


def receive(connection: socket.socket, size: int, buffer: memoryview) -> float:
    """Take in so many bytes and return when the last came, on the clock that all processes share."""
    while size:
        size -= connection.recv_into(buffer, min(size, len(buffer)))
    return time.monotonic()


def send(connection: socket.socket, message: memoryview, into: list[float]) -> None:
    into.append(time.monotonic())
    connection.sendall(message)


def worker(own: str, following: str) -> None:
    """Send to the next rank and receive from the one before, as told on standard input; say when it was."""
    server = socket.create_server((own, PORT))
    print("listening", flush=True)
    sys.stdin.readline()
    ahead = socket.create_connection((following, PORT))
    behind, _ = server.accept()
    for connection in (ahead, behind):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    message, buffer = memoryview(bytearray(os.urandom(ALL))), memoryview(bytearray(os.urandom(2**18)))
    for line in sys.stdin:
        what, size, at_s = json.loads(line)
        time.sleep(max(0.0, at_s - time.monotonic()))
        began: list[float] = []
        ended = 0.0
        sender = threading.Thread(target=send, args=(ahead, message[:size], began))
        if what in ("send", "both"):
            sender.start()
        if what in ("receive", "both"):
            ended = receive(behind, size, buffer)
        if what in ("send", "both"):
            sender.join()
        if what == "ping":
            began.append(time.monotonic())
            for _ in range(size):
                ahead.sendall(b"12345678")
                ended = receive(ahead, 8, buffer)
        if what == "pong":
            for _ in range(size):
                receive(behind, 8, buffer)
                behind.sendall(b"12345678")
        print(json.dumps([began, ended]), flush=True)


class Ranks:
    """The workers of one fabric."""

    def __init__(self, fabric: Fabric, n: int) -> None:
        script = [sys.executable, os.path.abspath(__file__), "--worker"]
        self.processes = [
            subprocess.Popen(
                fabric.command(i, [*script, fabric.address(i), fabric.address((i + 1) % n)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(n)
        ]
        for process in self.processes:
            stream(process.stdout).readline()
        for process in self.processes:
            tell(process, "go")

    def all(self, *orders: str, size: int) -> list[tuple[list[float], float]]:
        """Give the first ranks their orders, to begin at one time; return when each began to send, and had received."""
        at_s = time.monotonic() + 0.02
        busy = self.processes[: len(orders)]
        for process, what in zip(busy, orders, strict=True):
            tell(process, json.dumps([what, size, at_s]))
        return [json.loads(stream(process.stdout).readline()) for process in busy]

    def round_trip_s(self, times: int) -> float:
        ((start_s,), end_s), _ = self.all("ping", "pong", size=times)
        return (end_s - start_s) / times

    def one_way_s(self) -> float:
        ((start_s,), _), (_, end_s) = self.all("send", "receive", size=ONE)
        return end_s - start_s

    def to_the_next_s(self) -> list[float]:
        told = self.all(*["both"] * len(self.processes), size=ALL)
        return [told[i][1] - told[i - 1][0][0] for i in range(len(told))]

    def close(self) -> None:
        for process in self.processes:
            stream(process.stdin).close()
            process.wait()


def stream(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def tell(process: subprocess.Popen[str], line: str) -> None:
    stream(process.stdin).write(line + "\n")
    stream(process.stdin).flush()


def processor_s(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def measure(n: int, mbit_per_s: int, latency_s: float, repeats: int) -> Row:
    topology = parse_topology(f"switch:{n},bandwidth={mbit_per_s}Mbit/s,latency={latency_s / 2}s")
    with open_fabric("namespaces", topology, range(n)) as fabric:
        ranks = Ranks(fabric, n)
        small_s = ranks.round_trip_s(200) / 2
        one_s = [ranks.one_way_s() for _ in range(repeats)]
        assert fabric._keeper is not None
        pid = fabric._keeper.pid
        before, start = processor_s(pid), time.monotonic()
        all_s = [took_s for _ in range(repeats) for took_s in ranks.to_the_next_s()]
        busy, took = processor_s(pid) - before, time.monotonic() - start
        ranks.close()
    return Row(
        ranks=n,
        mbit_per_s=mbit_per_s,
        latency_s=latency_s,
        small_s=small_s,
        one_s=statistics.median(one_s),
        all_s=statistics.median(all_s),
        switch_fraction=busy / took,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--mbit", type=int, nargs="*", default=[100, 200, 1000], help="bandwidths, Mbit/s")
    parser.add_argument("--ms", type=float, nargs="*", default=[0.0, 1.0, 5.0], help="latencies, milliseconds")
    given = parser.parse_args()
    if given.worker:
        worker(*given.worker)
        return
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}\n\n{HEAD}")
    for n, mbit_per_s, ms in itertools.product(given.ranks, given.mbit, given.ms):
        print(measure(n, mbit_per_s, ms / 1e3, given.repeats).text(), flush=True)


if __name__ == "__main__":
    main()
