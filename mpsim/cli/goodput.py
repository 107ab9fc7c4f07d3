"""``mpsim goodput``: a plan through failures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from mpsim import units
from mpsim.cli.answer import available
from mpsim.cli.options import options_of
from mpsim.cli.output import DOCUMENTS, PICTURES, check_apart, json_option, output_option, print_json, say, tell
from mpsim.cli.planning import PlanOptions, host_speed_option, plan_of, plan_options
from mpsim.cli.read import read_pair
from mpsim.cli.scaling import ScalingOptions, by_type_of, scaling_options, unchecked_option
from mpsim.cli.types import BANDWIDTH, SECONDS
from mpsim.documents import made_now
from mpsim.errors import MpsimError
from mpsim.failures import Checkpoints, Failures, Goodput, Recovery, Stragglers
from mpsim.failures import goodput as predict
from mpsim.failures.file import save_goodput
from mpsim.failures.listed import load_events
from mpsim.failures.model import KINDS
from mpsim.failures.text import goodput_summary, goodput_to_dict

__all__ = ["goodput"]

_MTBF = "[TYPE=]TIME"
_OPTIONS = (
    click.option("--mtbf", multiple=True, metavar=_MTBF, help="Mean time between failures of a device, as in 50000h."),
    click.option("--node-mtbf", metavar="TIME", help="Of a node, beside those of its devices."),
    click.option("--link-mtbf", multiple=True, metavar=_MTBF, help="Of a link that the plan uses, both ways together."),
    click.option(
        "--shape", type=float, default=1.0, show_default=True, metavar="K",
        help="Of the Weibull distribution of those times; 1 is exponential.",
    ),
    click.option("--failures", metavar="FILE", help="A CSV or JSON of failures: at,what[,factor,lasting]."),
    click.option("--checkpoint", metavar="TIME|best", default="best", show_default=True, help="Steps between two."),
    click.option(
        "--checkpoint-kind", metavar="KIND", default="sharded", show_default=True, help=f"{', '.join(KINDS)}."
    ),
    click.option("--storage", type=BANDWIDTH, help="Of a node's link to where checkpoints go, as in '10 GB/s'."),
    click.option("--storage-total", type=BANDWIDTH, help="Of that place for all nodes together; by default no limit."),
    click.option("--copy", type=BANDWIDTH, help="Of async, to a host; by default as the topology's links there."),
    click.option("--checkpoint-cost", type=SECONDS, help="Instead of --storage: how long writing one takes."),
    click.option("--copy-cost", type=SECONDS, help="Beside it, of async: how long steps wait for the copy."),
    click.option("--detect", type=SECONDS, default="0", help="Until a failure is noticed; by default at once."),
    click.option("--restart", type=SECONDS, default="0", help="Of a restart, beside reading back; by default nothing."),
    click.option("--spares", type=int, default=0, show_default=True, metavar="N", help="Nodes that stand by."),
    click.option("--swap", type=SECONDS, default="0", help="To put a node in another's place; by default nothing."),
    click.option("--repair", metavar="TIME|inf", default="0", help="Of what failed; by default it is back at once."),
    click.option("--smaller", is_flag=True, help="Without a spare go on without the replicas that lost a device."),
    click.option("--slow-every", type=SECONDS, help="Mean time between a device's slow spells."),
    click.option("--slow-factor", type=float, metavar="F", help="How many times as long it computes then."),
    click.option("--slow-lasting", type=SECONDS, help="How long a spell lasts."),
    click.option("--for", "horizon", type=SECONDS, default="90 days", show_default=True, help="Wall time of a trial."),
    click.option("--trials", type=int, metavar="N", help="By default 1000, 1 where nothing is random."),
    click.option(
        "--seed", type=int, default=0, show_default=True, metavar="N", help="The same seed gives the same bits."
    ),
    click.option("--sample-tokens", type=int, default=0, metavar="N", help="Tokens in a sample, for tokens a second."),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    output: str | None
    plot: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failing:
    """What fails, how the run is saved, what is done about failures."""

    mtbf: tuple[str, ...]
    node_mtbf: str | None
    link_mtbf: tuple[str, ...]
    shape: float
    failures: str | None
    checkpoint: str
    checkpoint_kind: str
    storage: float | None
    storage_total: float | None
    copy: float | None
    checkpoint_cost: float | None
    copy_cost: float | None
    detect: float
    restart: float
    spares: int
    swap: float
    repair: str
    smaller: bool
    slow_every: float | None
    slow_factor: float | None
    slow_lasting: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    plan: PlanOptions
    scaling: ScalingOptions
    failing: _Failing
    files: _Files
    unchecked: bool
    host_speed: float
    horizon: float
    trials: int | None
    seed: int
    sample_tokens: int


def _failing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("workload")
@click.argument("topology")
@_failing_options
@plan_options
@click.option("--devices", type=int, metavar="N", help="Use no more than the topology's first N.")
@scaling_options
@unchecked_option
@host_speed_option
@json_option
@output_option("-o", "--output", what="Write the answer, every trial included.", suffixes=DOCUMENTS)
@output_option("--plot", what="Draw it (.png, .svg or .pdf).", suffixes=PICTURES)
def goodput(workload: str, topology: str, as_json: bool, **given: Any) -> None:
    """Predict how much of a run's wall time is useful where devices, nodes and links fail.

    WORKLOAD, TOPOLOGY and the plan are those of mpsim simulate. How often something fails must be given: nobody
    measured it of your devices. Steps since the last checkpoint are lost; what devices and spares do about a failure,
    and what a checkpoint takes, is as docs/goodput.md says.

    \b
      mpsim goodput workloads/gpt2.h200.json dgx_h200 --dp 8 --mtbf 5000h --storage 2GB/s --restart 3min --repair 6h
      mpsim goodput workloads/gpt2.h200.json dgx_h200 --dp 8 --mtbf 5000h --checkpoint 5min --checkpoint-cost 20s
    """
    asked = options_of(_Asked, given)
    check_apart(asdict(asked.files), (workload, topology, asked.plan.plan, asked.failing.failures))
    failures, stragglers = _failures(asked.failing), _stragglers(asked.failing)
    checkpoints, recovery = _checkpoints(asked.failing), _recovery(asked.failing)
    work, where = read_pair(workload, topology)
    plan = plan_of(asked.plan, work, available(asked.plan.devices, len(where.devices)))
    found = predict(
        work,
        where,
        plan,
        failures=failures,
        checkpoints=checkpoints,
        recovery=recovery,
        stragglers=stragglers,
        horizon=asked.horizon,
        trials=asked.trials,
        rng=asked.seed,
        tokens_per_sample=asked.sample_tokens,
        by_type=by_type_of(asked.scaling, work, where),
        unchecked=asked.unchecked,
        host_speed=asked.host_speed,
    )
    _write(found, asked.files)
    if as_json:
        print_json(goodput_to_dict(found))
    else:
        say(goodput_summary(found))


def _failures(given: _Failing) -> Failures:
    device, by_type = _means(given.mtbf, "--mtbf")
    link, by_link = _means(given.link_mtbf, "--link-mtbf")
    node = units.duration(given.node_mtbf, "--node-mtbf") if given.node_mtbf is not None else math.inf
    listed = load_events(given.failures) if given.failures is not None else ()
    return Failures(
        mtbf_s=device, node_mtbf_s=node, link_mtbf_s=link, by_type=by_type, link_by_type=by_link, shape=given.shape,
        listed=listed,
    )  # fmt: skip


def _means(texts: tuple[str, ...], option: str) -> tuple[float, dict[str, float | str]]:
    """Return the mean time between failures of all, and those of types."""
    every, by_type = None, {}
    for text in texts:
        kind, equals, time = text.rpartition("=")
        seconds = units.duration(time, option)
        if (equals and kind in by_type) or (not equals and every is not None):
            raise MpsimError(f"{option} is given twice for {repr(kind) if equals else 'all types'}: leave one out")
        if equals:
            by_type[kind] = seconds
        else:
            every = seconds
    return math.inf if every is None else every, dict(by_type)


def _checkpoints(given: _Failing) -> Checkpoints:
    if given.storage is None and given.checkpoint_cost is None:
        raise MpsimError("nothing says what a checkpoint takes: give --storage, as in 10GB/s, or --checkpoint-cost")
    return Checkpoints(
        every_s=None if given.checkpoint == "best" else units.duration(given.checkpoint, "--checkpoint"),
        kind=given.checkpoint_kind,
        storage_bytes_per_s=given.storage or 0.0,
        total_bytes_per_s=given.storage_total or math.inf,
        copy_bytes_per_s=given.copy or 0.0,
        write_s=given.checkpoint_cost,
        copy_s=given.copy_cost,
    )


def _recovery(given: _Failing) -> Recovery:
    return Recovery(
        detect_s=given.detect,
        restart_s=given.restart,
        spares=given.spares,
        swap_s=given.swap,
        repair_s=math.inf if given.repair.strip() == "inf" else units.duration(given.repair, "--repair"),
        smaller=given.smaller,
    )


def _stragglers(given: _Failing) -> Stragglers | None:
    said = (given.slow_every, given.slow_factor, given.slow_lasting)
    if all(one is None for one in said):
        return None
    every_s, factor, lasting_s = said
    if every_s is None or factor is None or lasting_s is None:
        raise MpsimError(
            "slow devices need all of --slow-every, --slow-factor and --slow-lasting: 1000h, 1.5 and 10min"
        )
    return Stragglers(every_s=every_s, factor=factor, lasting_s=lasting_s)


def _write(found: Goodput, files: _Files) -> None:
    if files.output:
        save_goodput(files.output, replace(found, provenance=made_now("")))
    if files.plot:
        from mpsim.cli.plot import save_picture

        save_picture(lambda _: found.plot(), files.plot)
    for path in filter(None, asdict(files).values()):
        tell(f"wrote {path}")
