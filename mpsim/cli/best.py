"""``mpsim best``: the fastest plan of all, for each number of devices, and the proof."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from mpsim import interrupts
from mpsim.cli.model import read_model
from mpsim.cli.options import options_of
from mpsim.cli.output import (
    DOCUMENTS,
    PAGES,
    TABLES,
    check_apart,
    json_option,
    output_option,
    print_json,
    say,
    tell,
)
from mpsim.cli.planning import host_speed_option
from mpsim.cli.progress import progress_bar
from mpsim.cli.scaling import ScalingOptions, by_type_of, scaling_options, unchecked_option
from mpsim.cli.trials import TrialOptions, trial_options, trials_of
from mpsim.cli.types import BYTES, NUMBERS
from mpsim.errors import MpsimError
from mpsim.plan.model import LAUNCHES, Plan, save_plan
from mpsim.plan.schedules import SCHEDULES
from mpsim.search.found import Found, FoundInterrupted
from mpsim.search.make_fit import made_fit, on_more_devices
from mpsim.search.rates import Rates, parse_count, parse_price
from mpsim.search.run import best as find_best
from mpsim.search.run import dry_run
from mpsim.search.space import TRIED, Axes, families
from mpsim.search.study import Study
from mpsim.search.text import answer, counted
from mpsim.sweeps import scaling_rows
from mpsim.sweeps.file import check_suffix, save_sweep
from mpsim.sweeps.journal import journal_path
from mpsim.sweeps.model import Row, SweepResult, finish
from mpsim.sweeps.text import scaling_text
from mpsim.topology.spec import parse_topology
from mpsim.units import format_bytes, format_duration
from mpsim.workload.model import Workload
from mpsim.workload.tokens import tokens_per_sample

__all__ = ["best"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    batch: tuple[int, ...] | None
    tokens: str | None
    seq: int | None
    precision: str | None
    devices: tuple[int, ...] | None
    dp: tuple[int, ...] | None
    pp: tuple[int, ...] | None
    tp: tuple[int, ...] | None
    cp: tuple[int, ...] | None
    ep: tuple[int, ...] | None
    microbatch_sizes: tuple[int, ...] | None
    schedules: str | None
    chunks: tuple[int, ...] | None
    zero: tuple[int, ...] | None
    shards: tuple[int, ...] | None
    recompute: str | None
    launch: str | None
    bucket: int
    algorithm: str
    runtime: str
    price: str | None
    train_tokens: str | None
    top: int
    dry_run: bool
    scaling: ScalingOptions
    unchecked: bool
    host_speed: float
    trials: TrialOptions
    processes: int | None
    resume: bool
    progress: bool | None
    plan: str | None
    report: str | None
    output: str | None


@click.command()
@click.argument("model")
@click.argument("cluster")
@click.option("--batch", type=NUMBERS, metavar="B,B,…", help="Samples in a step; each is searched by itself.")
@click.option("--tokens", metavar="N", help="Instead of --batch: tokens in a step, as in 4M.")
@click.option("--seq", type=int, metavar="N", help="Of a model: tokens in a sequence.")
@click.option("--precision", metavar="NAME", help="Of a model: as of mpsim trace; by default bf16-mixed.")
@click.option("--devices", type=NUMBERS, help="Numbers of devices; by default powers of two up to all there are.")
@click.option("--dp", type=NUMBERS, help="Sizes that are tried; by default all.")
@click.option("--pp", type=NUMBERS, help="Likewise.")
@click.option("--tp", type=NUMBERS, help="By default all that the workload has costs for; of a model up to 8.")
@click.option("--cp", type=NUMBERS, help="By default all that the workload has costs for; of a model none.")
@click.option("--ep", type=NUMBERS, help="Likewise.")
@click.option("--microbatch-sizes", type=NUMBERS, help="Samples; by default those that have costs, of a model 1,2,4.")
@click.option("--schedules", metavar="NAME,…", help=f"Of {', '.join(SCHEDULES)}; by default {', '.join(TRIED)}.")
@click.option("--chunks", type=NUMBERS, help="Stages a rank; by default 2,4,8 and what divides alike layers evenly.")
@click.option("--zero", type=NUMBERS, help="Stages of ZeRO; by default 0,1,2,3.")
@click.option("--shards", type=NUMBERS, help="Of ZeRO, replicas that shard together (HSDP), 0 for all, the default.")
@click.option("--recompute", metavar="WHAT,…", help="By default none, selective where it can be, and full.")
@click.option("--launch", metavar="NAME,…", help=f"Of {', '.join(LAUNCHES)}; by default as traced.")
@click.option("--bucket", type=BYTES, default="25 MiB", show_default=True, help="Gradients all-reduced at once.")
@click.option("--algorithm", default="ring", show_default=True, metavar="NAME", help="Of the collectives.")
@click.option("--runtime", default="ideal", show_default=True, metavar="NAME", help="How messages behave.")
@click.option("--price", metavar="PRICE", help="Of a device, as in '2.5 USD/h'.")
@click.option("--train-tokens", metavar="N", help="Tokens to say the price of, as in 15T; by default a step's.")
@click.option("--top", type=int, default=10, show_default=True, metavar="N", help="Fastest plans to find.")
@click.option("--dry-run", is_flag=True, help="Count the plans, and how many each reason removes; simulate none.")
@scaling_options
@unchecked_option
@host_speed_option
@trial_options
@click.option("--processes", type=int, metavar="N", help="By default one for each processor.")
@click.option("--resume/--no-resume", default=True, help="Go on with the rows in -o, the default; or begin it anew.")
@click.option("--progress/--no-progress", default=None, help="A bar on stderr; by default on a terminal.")
@json_option
@output_option("--plan", what="Write the best plan (.json).", suffixes=DOCUMENTS)
@output_option("--report", what="Write all of it as a page (.html): see mpsim report.", suffixes=PAGES)
@output_option("-o", "--output", what="Write the rows of the answer (.csv or .parquet).", suffixes=TABLES)
def best(model: str, cluster: str, as_json: bool, **given: Any) -> None:
    """Find the fastest way of splitting MODEL over CLUSTER, for each number of devices, and prove it.

    MODEL is a workload file, or a model's name or configuration (see mpsim trace), which then is costed by the roofline
    of the cluster's devices. Each plan is bounded from below, in time and in memory; simulated are those alone that
    may be faster than the best so far, so that the answer is that of simulating all of them. See docs/search.md.

    \b
      mpsim best mlp.json switch:4,link=eth_10g --batch 8192 --plan best.json -o best.csv --report report.html
      mpsim best workloads/gpt2.h200.json dgx_h200:2 --batch 64 --dry-run
      mpsim best mlp.json switch:4,link=eth_10g --batch 4096,8192 -o best.csv
      mpsim best llama3-70b dgx_h100:8 --tokens 4M --seq 8192 --price '2.5 USD/h' --train-tokens 15T
    """
    asked = options_of(_Asked, given)
    _check_outputs(asked, model, cluster)
    price = parse_price(asked.price) if asked.price else None
    train = parse_count(asked.train_tokens, "--train-tokens") if asked.train_tokens else 0
    if train and price is None:
        raise MpsimError("--train-tokens is for money: give --price too, as in '2.5 USD/h'")
    if (asked.batch is None) == (asked.tokens is None):
        raise MpsimError("give either --batch, samples in a step, or --tokens: every plan is of the same step")
    axes = _axes(asked)
    topology = parse_topology(cluster)
    began = time.perf_counter()
    workload, own = read_model(
        model, topology, seq=asked.seq, precision=asked.precision, microbatches=asked.microbatch_sizes,
        tp=asked.tp, cp=asked.cp, ep=asked.ep,
    )  # fmt: skip
    made_s = time.perf_counter() - began
    rates = Rates.of(workload, topology, price=price, train_tokens=train)
    batches = _batches(asked, workload)
    study = Study(
        workload, topology, by_type=own or by_type_of(asked.scaling, workload, topology), unchecked=asked.unchecked,
        host_speed=asked.host_speed,
    )  # fmt: skip
    base = Plan(bucket_bytes=asked.bucket, algorithm=asked.algorithm, runtime=asked.runtime)
    search = _Search(study, asked, axes, base, rates, batches, (model, cluster))
    if asked.dry_run:
        search.count(as_json)
        return
    began = time.perf_counter()
    search.run(as_json)
    if not as_json:
        say(f"\n{time.perf_counter() - began:.1f} s{f', the model {made_s:.1f} s' if made_s > 1 else ''}")


@dataclass(frozen=True, slots=True)
class _Search:
    """What is looked for, of each batch by itself."""

    study: Study
    asked: _Asked
    axes: Axes
    base: Plan
    rates: Rates
    batches: tuple[int, ...]
    named: tuple[str, str]

    def count(self, as_json: bool) -> None:
        """Say how many plans there are."""
        each = [dry_run(self.study, batch=batch, axes=self.axes, base=self.base) for batch in self.batches]
        if as_json:
            print_json(self._as_dict(each))
            return
        for batch, found in zip(self.batches, each, strict=True):
            lines = counted(found)
            say("\n".join(lines if len(each) == 1 else [f"batch {batch}: {lines[0]}", *lines[1:]]))

    def run(self, as_json: bool) -> None:
        """Find the best plans, print them and write what was asked for."""
        if len(self.batches) > 1:
            self._several(as_json)
            return
        found = self._found(self.batches[0])
        if not found.sweep.rows:
            raise MpsimError(_nothing(found, self.study, self.asked))
        _write(found, self.asked)
        if self.asked.report:
            _report(found, self.rates, self.asked, self.named)
        if as_json:
            print_json(self._as_dict([found]))
        else:
            say(answer(found, self.rates, self._head(self.batches[0])))

    def _several(self, as_json: bool) -> None:
        """Do so for several batches, each as soon as it is done, and say what more devices bring to all."""
        self._check()
        left: list[str] = []
        each: list[Found] = []
        for batch in self.batches:
            found = self._found(batch)
            if not found.sweep.rows:
                left.append(_nothing(found, self.study, self.asked))
                continue
            each.append(found)
            if not as_json:
                say(answer(found, self.rates, self._head(batch)) + "\n")
        if not each:
            raise MpsimError(left[0])
        for batch, said in zip(self._without(each), left, strict=True):
            tell(f"batch {batch}: {said}")
        if self.asked.output:
            self._join(_joined(each))
            tell(f"wrote {self.asked.output}")
        if as_json:
            print_json(self._as_dict(each))
        else:
            say(scaling_text(scaling_rows(_joined(each))))

    def _check(self) -> None:
        """Refuse a batch that no plan divides before any is searched for a long time."""
        for batch in self.batches:
            study, n_devices = self.study, len(self.study.topology.devices)
            made, left = families(study.workload, n_devices, batch, self.axes) if batch else ([], Counter())
            if not made:
                why = left.most_common(1)[0][0] if left else "it is no number of samples"
                raise MpsimError(f"--batch {batch}: no plan can be: {why}: leave it out, or trace other micro-batches")

    def _without(self, each: Sequence[Found]) -> list[int]:
        """Return the batches of which there is no plan."""
        there = {row["global_batch"] for one in each for row in one.sweep.rows}
        return [batch for batch in self.batches if batch not in there]

    def _head(self, batch: int) -> str:
        words = f"{self.study.workload.name} | {self.study.topology.name} | batch {batch}"
        return f"{words}{_in_tokens(self.rates, batch)}\n"

    def _as_dict(self, each: Sequence[Found]) -> dict[str, Any]:
        if len(self.batches) == 1:
            return _as_dict(each[0], self.rates)
        return {"batches": [_as_dict(one, self.rates) for one in each], "scaling": scaling_rows(_joined(each))}

    def _output(self, batch: int) -> str | None:
        """Return where the rows of a batch are kept; of several each has a file of its own until all are there."""
        path = self.asked.output
        if path is None or len(self.batches) == 1:
            return path
        return str(Path(path).with_suffix(f".batch-{batch}{Path(path).suffix}"))

    def _join(self, whole: SweepResult) -> None:
        """Write the rows of all batches, and drop those of each."""
        assert self.asked.output is not None
        save_sweep(Path(self.asked.output).resolve(), whole)
        for batch in self.batches:
            Path(self._output(batch) or "").unlink(missing_ok=True)

    def _found(self, batch: int) -> Found:
        asked, output = self.asked, self._output(batch)
        trials = trials_of(asked.trials, batch, self.study.workload.dataset_samples)
        try:
            with progress_bar(asked.progress, "plans") as progress:
                return find_best(
                    self.study, batch=batch, axes=self.axes, base=self.base, top=asked.top, trials=trials,
                    processes=asked.processes, output=output, resume=asked.resume, progress=progress,
                )  # fmt: skip
        except FoundInterrupted as stop:
            found = stop.found
            if found.sweep.rows:
                say(answer(found, self.rates, self._head(batch)))
            kept = f"; rows are in {journal_path(output)}: the same command goes on with them" if output else ""
            decided = sum(found.counts.values())
            tell(f"mpsim: error: {interrupts.words()} after {decided} of {found.planned} plans{kept}")
            raise click.exceptions.Exit(interrupts.exit_code()) from None


def _joined(each: Sequence[Found]) -> SweepResult:
    """Return the rows of several batches, each ranked by itself."""
    rows = [row for one in each for row in one.sweep.rows]
    return finish(rows, sum(one.planned for one in each), max((one.sweep.processes for one in each), default=1))


def _check_outputs(asked: _Asked, model: str, cluster: str) -> None:
    """Refuse what could not be written, before anything is computed."""
    if asked.output:
        check_suffix(asked.output)
    if asked.report:
        from mpsim.cli.page import check_page

        check_page(asked.report)
    if asked.top < 1:
        raise MpsimError(f"--top is {asked.top}, expected 1 or more plans to find")
    check_apart({"output": asked.output, "plan": asked.plan, "report": asked.report}, [model, cluster])


def _axes(asked: _Asked) -> Axes:
    def words(text: str | None) -> tuple[str, ...]:
        return tuple(word.strip() for word in text.split(",")) if text is not None else ()

    again = tuple("" if word == "none" else word for word in words(asked.recompute))
    sizes = {name: getattr(asked, name) or () for name in ("devices", "dp", "pp", "tp", "cp", "ep", "chunks")}
    return Axes(
        **sizes,
        microbatch_sizes=asked.microbatch_sizes or (),
        schedules=words(asked.schedules),
        zero=asked.zero or (),
        shards=asked.shards or (),
        recompute=again,
        launch=words(asked.launch),
    )


def _batches(asked: _Asked, workload: Workload) -> tuple[int, ...]:
    """Return the samples in a step, of each step that is asked for."""
    if asked.batch is not None:
        found = tuple(sorted(set(asked.batch)))
        one = [word for word in ("plan", "report") if getattr(asked, word)]
        if one and len(found) > 1:
            raise MpsimError(f"--{one[0]} is of one batch, --batch has {len(found)}: leave one of them out")
        return found
    each = tokens_per_sample(workload)
    if not each:
        raise MpsimError(f"samples of {workload.name!r} are no sequences of tokens: give --batch instead of --tokens")
    assert asked.tokens is not None
    count = parse_count(asked.tokens, "--tokens")
    # A million tokens are often 2^20 of them.
    binary = asked.tokens.strip().upper().removesuffix("M")
    for tokens in (count, int(binary) * 2**20 if binary.isdecimal() else count):
        if tokens % each == 0:
            return (tokens // each,)
    raise MpsimError(
        f"--tokens is {asked.tokens}, no whole number of sequences of {each:,} tokens: the nearest is"
        f" {max(round(count / each), 1) * each:,}"
    )


def _in_tokens(rates: Rates, batch: int) -> str:
    return f" = {batch * rates.tokens:,} tokens" if rates.tokens else ""


def _nothing(found: Found, study: Study, asked: _Asked) -> str:
    """Say why there is no plan, and what else would make the nearest one fit."""
    if found.unfit is not None:
        plan, count, capacity = found.unfit
        lacks = f", {format_bytes(count - capacity)} more than a device has" if capacity else ""
        said = (
            f"none of {found.planned:,} plans fits; the nearest, {plan.text}, needs {format_bytes(count)} on a device"
            f" at least{lacks}"
        )
        return f"{said}: {_otherwise(study, replace(plan, boundaries=None), asked)}"
    reason, times = max(found.reasons.items(), key=lambda one: one[1])
    return f"none of {found.planned:,} plans can be run; of {times:,} the reason is: {reason}"


def _otherwise(study: Study, plan: Plan, asked: _Asked) -> str:
    """Say with what a plan fits that the search had no part in, or on how many devices."""
    try:
        with progress_bar(asked.progress, "kinds of change") as progress:
            fix, where = made_fit(study, plan, progress=progress).best, ""
            if fix is None and (more := on_more_devices(study, plan)) is not None:
                fix, where = more[1].best, f"on {more[0].name} "
    except MpsimError:  # it cannot be run, or nobody knows how its topology grows
        fix = None
    if fix is None:
        return "use more devices, or devices with more memory"
    return f"{where}it fits with {fix.short}: a step of {format_duration(fix.step_s)} (needs {fix.needs})"


def _write(found: Found, asked: _Asked) -> None:
    if asked.plan and found.best is not None:
        save_plan(asked.plan, found.plans[found.best["plan"]])
        tell(f"wrote {asked.plan}")
    if asked.output:
        tell(f"wrote {asked.output}")


def _report(found: Found, rates: Rates, asked: _Asked, named: tuple[str, str]) -> None:
    """Write the answer as a page, with the step of the best plan."""
    from mpsim.cli.page import write_page
    from mpsim.report.gather import source_of
    from mpsim.report.values import given_of_found

    assert asked.report is not None
    sources = (source_of("workload", named[0]), source_of("topology", named[1]))
    write_page(given_of_found(found, rates, sources), asked.report, progress=asked.progress)


def _as_dict(found: Found, rates: Rates) -> dict[str, Any]:
    def row(one: Row) -> dict[str, Any]:
        return {
            **one,
            "tokens_per_s": rates.tokens_per_s(one),
            "model_flops_per_s": rates.flops_per_s(one),
            "mfu_fraction": rates.mfu(one),
            "price": rates.money(one),
        }

    return {
        "plans": found.planned,
        "counts": dict(found.counts),
        "reasons": dict(found.reasons),
        "complete": found.complete,
        "currency": rates.price.currency if rates.price else None,
        "train_tokens": rates.train_tokens or None,
        "caveats": list(found.sweep.caveats),
        "notes": list(found.sweep.notes),
        "best": None if found.best is None else row(found.best),
        "by_devices": [row(one) for one in found.by_devices],
        "rows": [row(one) for one in found.sweep.ranked],
    }
