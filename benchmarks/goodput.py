"""Runs through failures: how long they take to play, and what Young, Daly and a published run say beside them.

    python benchmarks/goodput.py

Prints its tables and writes docs/goodput.md. Speed is in seconds of CPU of one process. What Llama 3's report does not
say is assumed, and stands in the table.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpsim import (
    Checkpoints,
    Failures,
    Plan,
    Recovery,
    Stragglers,
    goodput,
    load_workload,
    parse_topology,
)
from mpsim.documents import write_text
from mpsim.failures.components import Component, Components
from mpsim.failures.daly import daly_s, expected_goodput, young_s
from mpsim.failures.lanes import Mode
from mpsim.failures.run import Run
from mpsim.failures.trials import Draws
from mpsim.plan.sharding import Sharding

ROOT = Path(__file__).parents[1]
HOUR, DAY = 3600.0, 86400.0
Table = list[list[str]]

HEAD = """# Runs through failures

Made by `python benchmarks/goodput.py`. `mpsim goodput WORKLOAD TOPOLOGY [a plan] --mtbf 50000h --storage 10GB/s ...`
and `mpsim.goodput(...)` say how much of a run's wall time is useful, and where the rest goes.

**What is modelled.** A plan's step is replayed once undisturbed, at the median of every layer time, and once for each
situation that comes up: these devices slow, those replicas out. Between events, trials go on in closed form; tests hold
that to the same run step by step, to the last bit, and to cases worked by hand. Times are multiples of a power of two
of a second, so that the parts of each trial add up to its wall time exactly.

- *Fails*: each device, each node (the innermost of several levels of the topology; without levels each device is one)
  and each wire that the plan's bytes take, both directions together. Exponential, or Weibull with all new at the start
  and what failed replaced by new. How often has to be given: nobody measured it of your devices. A list of failures
  (`--failures FILE`: `at,what[,factor,lasting]`) comes beside it or instead.
- *Lost* are the steps since the last checkpoint that was safe; a checkpoint that is under way at a failure is not. What
  is whole at that very moment counts.
- *A checkpoint* comes after so many steps and saves parameters, master copies and the optimizer's state as the plan
  shards them. `sharded`: each rank writes what it alone holds, of what replicas hold alike the first. `whole`: one rank
  receives it all (replayed, one sender after another) and writes. `async`: a copy to the host, then written beside the
  steps; the next waits for that. Each node has a link to storage (`--storage`), all together no more than
  `--storage-total`. Writing beside steps is taken not to slow them.
- *A failure* is noticed after `--detect`; then a spare takes the node's place (`--swap`), or what failed is waited for
  (`--repair`; a repaired node is a spare again), or with `--smaller` the replicas that lost nothing go on from the last
  checkpoint, with their own batch, if that fits their memories, until the others are back; then all restart from the
  last checkpoint. A restart takes `--restart` and what each rank reads back. One that is struck begins anew.
- *Useful* is what the undisturbed plan would take for the samples that count at the end; *slowed* what steps took
  longer than that. A step keeps the pace at which it began.
- With more than 16 situations, replicas are taken to be alike, and so are ranks that share layers; the answer says so.
- *Not modelled*: failures that come together, that nobody notices, or that a restart does not cure; what slow devices
  do to checkpoints; nodes that were swapped for being slow; buffers in a checkpoint.

"""


def table(rows: Table) -> str:
    """Return a table in Markdown, figures to the right."""
    head, *body = rows
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *body)])


def things(count: int, mtbf_s: float) -> Components:
    """Return devices that fail as often, eight to a node."""
    each = tuple(Component(f"d{i}", frozenset([i // 8]), True, mtbf_s) for i in range(count))
    return Components(each, np.full(count, mtbf_s), count // 8)


def speed() -> Iterator[list[str]]:
    """Yield how long 1,000 trials of 90 days take: drawn, played with one interval, and the best one found."""
    yield ["devices", "failures", "drawn (s)", "played (s)", "best interval (s)", "all (s)", "peak memory (MB)"]
    for count in (1024, 4096, 16384):
        mtbf_s, started = 50000 * HOUR, time.process_time()
        draws = Draws(
            components=things(count, mtbf_s), failures=Failures(mtbf_s=mtbf_s), seed=0, horizon_s=90 * DAY,
            recovery=Recovery(detect_s=60, restart_s=300, spares=16, repair_s=DAY),
        )  # fmt: skip
        run = Run((Mode(6.0, 6.0, 5.0, 0.0, 300.0),), draws.trials(1000).rows, 90 * DAY)
        drawn = time.process_time()
        run.trials(100)
        played = time.process_time()
        run.interval(Checkpoints(write_s=5.0), mtbf_s / count)
        ended = time.process_time()
        spans = (drawn - started, played - drawn, ended - played, ended - started)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield [f"{count:,}", f"{run.rows.stops.sum():,}", *(f"{one:.1f}" for one in spans), f"{peak:,.0f}"]


def formulas() -> Iterator[list[str]]:
    """Yield waste and best interval beside Daly's."""
    yield [
        "mean time between failures", "checkpoint", "restart", "failures", "best interval (s)", "Young", "Daly", "off",
        "waste at Daly's", "by his formula", "off",
    ]  # fmt: skip
    for mtbf_s, blocked_s, restart_s, days, trials in (
        (10 * HOUR, 5.0, 300.0, 365, 120), (3 * HOUR, 20.0, 300.0, 90, 140), (HOUR, 10.0, 60.0, 30, 140),
        (HOUR, 60.0, 600.0, 30, 140), (1000.0, 60.0, 30.0, 10, 110),
    ):  # fmt: skip
        one = Components((Component("all", frozenset(), True, mtbf_s),), np.array([mtbf_s]), 1)
        recovery, failures = Recovery(restart_s=restart_s), Failures(mtbf_s=mtbf_s)
        draws = Draws(components=one, failures=failures, recovery=recovery, seed=0, horizon_s=days * DAY)
        run = Run((Mode(1.0, 1.0, blocked_s, 0.0, restart_s),), draws.trials(trials).rows, days * DAY)
        steps, best, _, _ = run.interval(Checkpoints(write_s=blocked_s), mtbf_s)
        assert best is not None
        daly = daly_s(blocked_s, mtbf_s)
        waste = 1 - float(run.means(np.array([float(round(daly))]))[0])
        expected = 1 - expected_goodput(round(daly), blocked_s, restart_s, mtbf_s)
        yield [
            f"{mtbf_s:,.0f} s", f"{blocked_s:.0f} s", f"{restart_s:.0f} s", f"{run.rows.stops.sum():,}", f"{steps:,}",
            f"{young_s(blocked_s, mtbf_s):,.0f}", f"{daly:,.0f}", f"{100 * (steps / daly - 1):+.1f} %",
            f"{100 * waste:.2f} %", f"{100 * expected:.2f} %", f"{100 * (waste / expected - 1):+.2f} %",
        ]  # fmt: skip


def llama() -> Iterator[list[str]]:
    """Yield the goodput of Llama 3 405B's 54 days, by what its report does not say."""
    yield ["from a failure to the next step (assumed)", "best interval", "goodput, 5-95 % of trials", "every 30 min"]
    mtbf_s = 54 * DAY / 419
    # 2 bytes of parameters, 4 + 8 of the optimizer, at the storage's sustained 2 TB/s.
    blocked_s = 405e9 * 14 / 2e12
    for minutes in (5, 10, 15, 20):
        draws = Draws(
            components=things(16384, mtbf_s * 16384), failures=Failures(mtbf_s=mtbf_s * 16384), seed=0,
            horizon_s=54 * DAY, recovery=Recovery(restart_s=minutes * 60.0),
        )  # fmt: skip
        run = Run((Mode(6.0, 6.0, blocked_s, 0.0, minutes * 60.0),), draws.trials(400).rows, 54 * DAY)
        steps, best, _, _ = run.interval(Checkpoints(write_s=blocked_s), mtbf_s)
        assert best is not None
        each = np.array(run.trials(steps)["useful_s"]) / (54 * DAY)
        low, high = np.quantile(each, [0.05, 0.95])
        yield [
            f"{minutes} min", f"{best.interval_s:.0f} s",
            f"{100 * best.goodput:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
            f"{100 * float(run.means(np.array([300.0]))[0]):.1f} %",
        ]  # fmt: skip


def plans() -> Iterator[list[str]]:
    """Yield one plan with other checkpoints and other ways of going on."""
    yield ["checkpoints and recovery", "best interval", "goodput", "lost", "checkpoint", "restart", "repair", "slowed"]
    workload = load_workload(ROOT / "workloads" / "llama-1b-bf16.h200.json")
    topology = parse_topology("dgx_h200:4")
    base = Recovery(detect_s=60, restart_s=180, repair_s=12 * HOUR)
    stored = Checkpoints(storage_bytes_per_s=1e9)
    copied = Checkpoints(kind="async", copy_bytes_per_s=20e9, storage_bytes_per_s=1e9)
    spares, slow = replace(base, spares=2), Stragglers(every_s=500 * HOUR, factor=1.5, lasting_s=HOUR)
    cases: Sequence[tuple[str, Checkpoints, Recovery, Stragglers | None]] = (
        ("whole, waiting for the repair", replace(stored, kind="whole"), base, None),
        ("sharded, waiting", stored, base, None),
        ("sharded, a smaller plan", stored, replace(base, smaller=True), None),
        ("sharded, two spares", stored, spares, None),
        ("async, two spares", copied, spares, None),
        ("the same, devices half as slow again for an hour", copied, spares, slow),
    )
    for name, checkpoints, recovery, stragglers in cases:
        found = goodput(
            workload, topology, Plan(dp=32, sharding=Sharding(zero=1)), checkpoints=checkpoints, recovery=recovery,
            failures=Failures(mtbf_s=5000 * HOUR, node_mtbf_s=5000 * HOUR), stragglers=stragglers, trials=300,
        )  # fmt: skip
        parts = [f"{100 * found.parts[part]:.2f} %" for part in ("lost", "checkpoint", "restart", "repair", "slowed")]
        assert found.best is not None
        yield [name, f"{found.best.interval_s:.0f} s", f"{100 * found.goodput:.2f} %", *parts]


SECTIONS = (
    (
        "How long it takes",
        "1,000 trials of 90 days, a device failing every 50,000 h, a step of 6 s, a checkpoint of 5 s; CPU seconds of"
        " one process. Replaying the plan's step comes beside it, and takes what `mpsim simulate` of it takes.",
        speed,
    ),
    (
        "Beside Young and Daly",
        "Where what they assume holds (exponential failures, one pace, restarts that take as long each time and may be"
        " struck themselves), steps of 1 s. Waste is the part of the time that is not useful; by"
        " [Daly](https://doi.org/10.1016/j.future.2004.11.016). The interval is what the search over the simulation"
        " finds.",
        formulas,
    ),
    (
        "A published run",
        "[Llama 3 405B](https://arxiv.org/abs/2407.21783), section 3.3.4: on 16,384 H100s 419 unexpected interruptions"
        " in 54 days, and more than 90 % effective training time. Taken from there: those two numbers (a failure every"
        " 3.1 h, 50,700 h a device, if all were devices), and the storage's sustained 2 TB/s. Assumed: exponential"
        " failures, a step of 6 s, a checkpoint of 14 bytes a parameter that steps wait for (2.8 s), the interval, and"
        " how long a stop lasts, which the report does not say. The 47 planned interruptions are left out. So this is"
        " no validation: it says that more than 90 % takes stops of no more than about a quarter of an hour.",
        llama,
    ),
    (
        "One plan, other ways to go on",
        "`workloads/llama-1b-bf16.h200.json` on `dgx_h200:4`, 32 replicas with ZeRO 1, a device and a node failing"
        " every 5,000 h (given, not measured), 60 s to notice, 180 s and reading to restart, 12 h to repair, 1 GB/s"
        " from a node to storage; 300 trials of 90 days.",
        plans,
    ),
)


def main() -> None:
    page = HEAD
    for title, text, rows in SECTIONS:
        page += f"## {title}\n\n{text}\n\n{table(list(rows()))}\n\n"
        print(page[page.rindex("## ") :], flush=True)
    write_text(ROOT / "docs" / "goodput.md", page.rstrip() + "\n")


if __name__ == "__main__":
    main()
