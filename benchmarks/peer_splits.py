"""Every training step of a peer's analytical model beside ours, row by row: prints it, writes docs/peer-splits.md.

    python benchmarks/peer_splits.py

The peer is ASTRA-sim 2 (https://github.com/astra-sim/astra-sim). A row is lowered from a Plan like any other and
replayed by the engine. What is the peer's alone enters here and nowhere in mpsim; nothing is fitted:

- "GB/s" of a link is 2^30 bytes/s.
- A rank waits 10 ns before the first message of a collective and after each that it receives; adding m bytes to its
  own takes 3m / 1600e9 s. Messages of pipelines cost neither.
- Its congestion-unaware backend cuts through, as ours does. Its congestion-aware one stores a whole message at each
  hop before it sends it on, so that a path of h links takes h·(latency + m/bandwidth).
- Its data parallelism all-reduces each layer's gradient by itself: buckets of one layer.
- Its tensor parallelism has two blocking all-reduces a layer and pass, each after a computation of the given time:
  here, twice as many layers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mpsim.collectives.traffic import Endpoint, collective
from mpsim.documents import write_text
from mpsim.engine.replay import replay
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.program.model import Program, Task, Traffic
from mpsim.topology.builders import fully_connected, ring, switch
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire
from mpsim.workload.model import Cost, Gradient, Layer, Parameter, Samples, Shard, ShardCollective, Workload

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "tests" / "data" / "astra_sim_splits.csv"
PAGE = ROOT / "docs" / "peer-splits.md"

BUILDERS = {"FullyConnected": fully_connected, "Ring": ring, "Switch": switch}
DELAY_S = 10e-9
ENDPOINT = Endpoint(delay_s=DELAY_S, reduce_bytes_per_s=1600e9 / 3)


class Row(NamedTuple):
    """One output of the peer, in our words and units."""

    case: str
    aware: bool
    shape: str
    devices: int
    wire: Wire
    parameters: dict[str, int]
    peer_s: float


class Comparison(NamedTuple):
    """A row beside ours; `forwarded_s` is ours given store-and-forward."""

    row: Row
    hops: int
    ours_s: float
    forwarded_s: float

    @property
    def verdict(self) -> str:
        return "store-and-forward" if self.row.aware and self.hops > 1 else "same model"

    @property
    def error(self) -> float:
        return self.ours_s / self.row.peer_s - 1

    @property
    def given_error(self) -> float:
        return self.forwarded_s / self.row.peer_s - 1


def read_rows(path: Path = ROWS) -> list[Row]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [_row(fields) for fields in csv.DictReader(lines)]


def _row(fields: dict[str, str]) -> Row:
    pairs = [word.split("=") for word in fields["params"].split() if "=" in word]
    return Row(
        case=fields["case"],
        aware=fields["backend"] == "congestion_aware",
        shape=fields["topology"],
        devices=int(fields["npus"]),
        wire=Wire(float(fields["bandwidth_GBps_2p30"]) * 2**30, float(fields["latency_ns"]) * 1e-9),
        parameters={key: int(value) for key, value in pairs},
        peer_s=float(fields["makespan_ns"]) * 1e-9,
    )


def _layer(row: Row, name: str, gradient_bytes: int = 0, reduced_bytes: int = 0) -> Layer:
    """Return a layer of the row's times; `reduced_bytes` are all-reduced after forward and after backward."""
    shards = row.devices if reduced_bytes else 1
    backward_s = row.parameters["b_us"] * 1e-6
    samples = Samples(
        forward_s=(row.parameters["f_us"] * 1e-6,),
        backward_input_s=(backward_s / 2,),
        backward_weight_s=(backward_s / 2,),
    )
    held = Parameter(name=f"{name}.weight", shape=(gradient_bytes,), dtype="uint8")
    calls = [ShardCollective(kind="all_reduce", bytes=reduced_bytes, phase=phase) for phase in ("forward", "backward")]
    return Layer(
        name=name,
        shards=(
            Shard(
                tensor_parallel=shards,
                parameters=(held,),
                gradients=(Gradient(parameter=held.name, bytes=gradient_bytes),) if gradient_bytes else (),
            ),
        ),
        costs=(
            Cost(
                microbatch=1,
                tensor_parallel=shards,
                samples=samples,
                collectives=tuple(calls) if reduced_bytes else (),
            ),
        ),
    )


def split_of(row: Row) -> tuple[Workload, Plan]:
    """Return the row's workload and plan."""
    given = row.parameters
    if row.case in ("gpipe", "1f1b"):
        layers = [_layer(row, f"stage{i}") for i in range(given["stages"])]
        plan = Plan(pp=given["stages"], microbatches=given["M"], schedule=row.case)
    elif row.case == "dp":
        layers = [_layer(row, f"layer{i}", gradient_bytes=given["grad_bytes"]) for i in range(given["layers"])]
        plan = Plan(dp=row.devices, bucket_bytes=1, first_bucket_bytes=1)
    else:
        layers = [_layer(row, f"half{i}", reduced_bytes=given["act_bytes"]) for i in range(2 * given["layers"])]
        plan = Plan(tp=row.devices)
    return Workload.chain(row.case, layers, activation_bytes=given.get("A", 0)), plan


def _with_endpoint(task: Task, program: Program, routes: Routes) -> Task:
    """Return a collective with the peer's delays and reductions."""
    if task.traffic is None or task.kind != "all_reduce":
        return task
    ranks = [program.streams[stream].device for stream in task.streams]
    traffic = collective(routes, task.kind, ranks, task.traffic.payload_bytes, endpoint=ENDPOINT)
    return task._replace(traffic=replace(traffic, latency_s=traffic.latency_s + DELAY_S))


def _stored(task: Task, hops: int, row: Row) -> Task:
    """Return a transfer that is stored at each hop: one more message time for each further hop and round."""
    if task.traffic is None:
        return task
    message = task.traffic.payload_bytes / (1 if task.kind == "send" else len(task.streams))
    seconds = (hops - 1) * task.traffic.rounds * message / row.wire.bandwidth_bytes_per_s
    return task._replace(traffic=_later(task.traffic, seconds))


def _later(traffic: Traffic, seconds: float) -> Traffic:
    return replace(traffic, latency_s=traffic.latency_s + seconds)


def compare(row: Row) -> Comparison:
    topology = BUILDERS[row.shape](row.devices, link=row.wire)
    workload, plan = split_of(row)
    lowering = lower(workload, topology, plan)
    program = program_of(lowering)
    hops = len(lowering.routes.path(0, 1))
    tasks = [_with_endpoint(task, program, lowering.routes) for task in program.tasks]
    return Comparison(
        row=row,
        hops=hops,
        ours_s=_step_s(program, tasks, topology),
        forwarded_s=_step_s(program, [_stored(task, hops, row) for task in tasks], topology),
    )


def blocking_s(row: Row) -> float:
    """Return the step of a pipeline whose sends hold the sender's computation until delivery."""
    topology = BUILDERS[row.shape](row.devices, link=row.wire)
    workload, plan = split_of(row)
    return replay(program_of(lower(workload, topology, replace(plan, runtime="blocking"))), topology).step_s


def _step_s(program: Program, tasks: list[Task], topology: Topology) -> float:
    return replay(Program(streams=program.streams, tasks=tuple(tasks)), topology).step_s


def table(comparisons: list[Comparison]) -> Iterator[str]:
    columns = (
        "#",
        "split",
        "what",
        "backend",
        "topology",
        "peer ns",
        "ours ns",
        "error %",
        "model",
        "given that",
        "error %",
    )
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for number, one in enumerate(comparisons, start=1):
        row = one.row
        what = " ".join(f"{key}={value}" for key, value in row.parameters.items())
        backend = "aware" if row.aware else "unaware"
        given = ""
        if one.verdict == "store-and-forward":
            given = f"{one.forwarded_s * 1e9:.0f} | {100 * one.given_error:.4f}"
        yield (
            f"| {number} | {row.case} | {what} | {backend} | {row.shape} {row.devices} | {row.peer_s * 1e9:.0f}"
            f" | {one.ours_s * 1e9:.0f} | {100 * one.error:.4f} | {one.verdict} | {given or ' | '} |"
        )


def page(comparisons: list[Comparison]) -> str:
    """Return the whole page, as it is committed."""
    head = __doc__.split("The peer is", 1)[1].strip()
    same = [abs(one.error) for one in comparisons if one.verdict == "same model"]
    other = [one for one in comparisons if one.verdict != "same model"]
    held = next(one for one in comparisons if one.row.case == "1f1b")
    lines = [
        "# Training steps beside a peer's",
        "",
        "Made by `python benchmarks/peer_splits.py`, checked by `tests/simulation/test_peer_splits.py`.",
        f"The peer is {head}",
        "",
        f"- **same model**: {len(same)} of {len(comparisons)} rows, the worst {100 * max(same):.4f} % off: each of its"
        " waits is rounded down to a nanosecond.",
        f"- **store-and-forward**: {len(other)} rows, those of a switch (two links to a path) in the congestion-aware"
        " backend, which stores a whole message at the switch before it sends it on. Ours cut through, as the networks"
        " between GPUs do. Given one more message time for each message and round (*given that*), reproduced, the worst"
        f" {100 * max(abs(one.given_error) for one in other):.4f} % off. Which rows these are follows from their"
        " routes, not from their times.",
        "",
        "Both pipelines are those of our runtime `ideal`: messages move beside computation. The peer's 1F1B is longer"
        " than its GPipe by what the alternation of forwards and backwards waits for, 16 instead of 6 message times; no"
        f" send holds its sender. With sends that do (runtime `blocking`) it would take"
        f" {blocking_s(held.row) * 1e9:.0f} ns instead of {held.row.peer_s * 1e9:.0f}.",
        "",
        *table(comparisons),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    comparisons = [compare(row) for row in read_rows()]
    text = page(comparisons)
    print(text)
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
