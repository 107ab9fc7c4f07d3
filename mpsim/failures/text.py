"""A goodput as text for a terminal: what it rests on first."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from mpsim.failures.model import Failures, Recovery, Stragglers
from mpsim.failures.outcome import Formula, Goodput
from mpsim.result.text import caution, format_percent, short_notes
from mpsim.tables import Text, align_rows, facts, joined
from mpsim.units import format_bytes, format_duration, format_long_duration

__all__ = ["given_text", "goodput_summary", "goodput_to_dict"]

_MOST_REPLAYED = 8
_ENOUGH_STOPS = 1000
_MEANING = {
    "useful": "steps that count at the end",
    "lost": "steps done again",
    "checkpoint": "steps kept up by checkpoints",
    "restart": "detection, restarts, reading back",
    "repair": "waiting for a node or a link",
    "slowed": "slow devices, fewer replicas",
}


def given_text(failures: Failures, recovery: Recovery, stragglers: Stragglers | None) -> str:
    """Return in a phrase what was given and not measured, and what was not even said.

    Examples
    --------
    >>> given_text(Failures(mtbf_s="50000h"), Recovery(), None)
    'given, not measured: a device fails every 2,083 days, exponential; detection, a restart and repair taken as 0'
    """
    means = [
        ("device", failures.mtbf_s), *((kind, mean) for kind, mean in failures.by_type.items()),
        ("node", failures.node_mtbf_s), ("link", failures.link_mtbf_s),
        *((f"{kind} link", mean) for kind, mean in failures.link_by_type.items()),
    ]  # fmt: skip
    words = [
        f"a {name} fails every {format_long_duration(float(mean))}" for name, mean in means if float(mean) < math.inf
    ]
    if words:
        words[-1] += ", exponential" if failures.shape == 1 else f", Weibull of shape {failures.shape:g}"
    words += [f"{(n := len(failures.listed))} listed event{'s' * (n > 1)}"] if failures.listed else []
    if stragglers:
        words.append(
            f"a device is {stragglers.factor:g} times slower every {format_long_duration(float(stragglers.every_s))}"
            f" for {format_long_duration(float(stragglers.lasting_s))}"
        )
    times = {"detection": recovery.detect_s, "a restart": recovery.restart_s, "repair": recovery.repair_s}
    words += [
        f"{name} takes {format_long_duration(seconds)}" if seconds < math.inf else "nobody repairs"
        for name, seconds in times.items()
        if seconds
    ]
    none = [name for name, seconds in times.items() if not seconds]
    left = " and ".join(filter(None, (", ".join(none[:-1]), *none[-1:])))
    return f"given, not measured: {', '.join(words)}" + (f"; {left} taken as 0" if none else "")


def goodput_summary(found: Goodput) -> Text:
    """Return what a goodput says, for a terminal.

    Examples
    --------
    >>> found = Goodput(workload="mlp", topology="pair", plan="dp=2", step_s=1.0, interval_s=4.0, interval_steps=4,
    ...                 horizon_s=8.0, useful_s=(6.0,), lost_s=(0.5,), checkpoint_s=(1.5,), restart_s=(0.0,),
    ...                 repair_s=(0.0,), slowed_s=(0.0,), stops=(1,), deterministic=True, blocked_s=0.5)
    >>> print(goodput_summary(found).split("\\n")[2])
    goodput         75.0 % of 8 s
    """
    head = f"{found.workload} | {found.plan} | {found.topology}"
    said = [
        ("goodput", _goodput(found)),
        ("throughput", _throughput(found)),
        ("stops", _stops(found)),
        ("step", f"{format_duration(found.step_s)} undisturbed, every layer time at its median"),
        ("checkpoints", _checkpoints(found)),
        ("best interval", _best(found)),
        ("Young and Daly", _formula(found.formula) if found.formula else ""),
        ("trials", "nothing random: one stands for all" if found.deterministic else f"{found.trials:,}"),
        ("fidelity", found.fidelity),
    ]
    blocks = [caution(found.caveats) + head, facts(said)]
    blocks += [_parts(found), _replayed(found)]
    blocks += ["\n".join(short_notes(found.notes))] if found.notes else []
    return joined("\n\n", filter(None, blocks))


def goodput_to_dict(found: Goodput) -> dict[str, Any]:
    """Return a goodput as plain values: means and quantiles over its trials, units in the keys.

    Examples
    --------
    >>> found = Goodput(workload="mlp", topology="pair", plan="dp=2", step_s=1.0, interval_s=4.0, interval_steps=4,
    ...                 horizon_s=8.0, useful_s=(6.0,), lost_s=(0.5,), checkpoint_s=(1.5,), restart_s=(0.0,),
    ...                 repair_s=(0.0,), slowed_s=(0.0,), stops=(1,))
    >>> goodput_to_dict(found)["goodput_p50"]
    0.75
    """
    columns = ("useful_s", "lost_s", "checkpoint_s", "restart_s", "repair_s", "slowed_s", "stops", "provenance")
    plain = {name: value for name, value in asdict(found).items() if name not in columns}
    plain["mtbf_s"] = found.mtbf_s if found.mtbf_s < math.inf else None
    quantiles = {f"goodput_p{at}": found.quantile(at / 100) for at in (5, 50, 95)}
    return (
        {"goodput": found.goodput, "standard_error": found.standard_error}
        | quantiles
        | {"parts": found.parts, "stops": sum(found.stops) / found.trials, "trials": found.trials}
        | {"throughput_samples_per_s": found.throughput_samples_per_s}
        | {"throughput_tokens_per_s": found.throughput_tokens_per_s or None}
        | plain
    )


def _goodput(found: Goodput) -> str:
    text = f"{format_percent(found.goodput)} of {format_long_duration(found.horizon_s)}"
    if found.trials > 1:
        low, high = format_percent(found.quantile(0.05)), format_percent(found.quantile(0.95))
        text += f"; 5-95 % of trials within {low} to {high}; standard error {100 * found.standard_error:.2g} points"
    return text


def _throughput(found: Goodput) -> str:
    if not found.global_batch:
        return ""
    text = f"{found.throughput_samples_per_s:,.4g} samples/s"
    if found.tokens_per_sample:
        text += f", {found.throughput_tokens_per_s:,.4g} tokens/s"
    return f"{text} of {found.global_batch / found.step_s:,.4g} undisturbed"


def _stops(found: Goodput) -> str:
    mean = sum(found.stops) / found.trials
    text = f"{mean:,.4g} a trial"
    if found.mtbf_s < math.inf:
        together = f"{found.n_devices:,} devices on {found.nodes:,} nodes"
        text += f"; a failure every {format_long_duration(found.mtbf_s)} of {together} and their links together"
    return text


def _checkpoints(found: Goodput) -> str:
    text = f"{found.kind}, every {format_long_duration(found.interval_s)} of steps ({found.interval_steps:,})"
    text += f"; steps wait {format_duration(found.blocked_s)}"
    text += f", written {format_duration(found.written_s)} later" if found.written_s else ""
    if found.checkpoint_bytes:
        text += f"; {format_bytes(found.checkpoint_bytes)}, read back in {format_duration(found.read_s)}"
    return text


def _best(found: Goodput) -> str:
    if found.best is None:
        return ""
    best, stops = found.best, sum(found.stops[: found.tried_on])
    surer = f"; {stops:,} stops hardly tell them apart, the formulas are surer" if stops < _ENOUGH_STOPS else ""
    return (
        f"{format_long_duration(best.interval_s)} ({best.steps:,} steps): {format_percent(best.goodput)};"
        f" {len(found.tried)} tried on the same {found.tried_on:,} trials{surer if found.formula else ''}"
    )


def _formula(formula: Formula) -> str:
    text = (
        f"{format_long_duration(formula.young_s)} and {format_long_duration(formula.daly_s)};"
        f" with the interval used {format_percent(formula.goodput)}"
    )
    return text + (f" (what they do not know: {', '.join(formula.misses)})" if formula.misses else "")


def _parts(found: Goodput) -> Text:
    rows = [
        (name, format_percent(part), format_long_duration(part * found.horizon_s), _MEANING[name])
        for name, part in found.parts.items()
    ]
    return align_rows([("part", "of time", "a trial", ""), *rows])


def _replayed(found: Goodput) -> str:
    others = found.replayed[1:]
    if not others:
        return ""
    shown = [
        f"{one.what}: a step takes {format_duration(one.step_s)}, {one.step_s / one.useful_s:.3g} times as long for its"
        " samples"
        for one in others[:_MOST_REPLAYED]
    ]
    more = [f"and {len(others) - _MOST_REPLAYED} more situations"] if len(others) > _MOST_REPLAYED else []
    return "\n".join([*shown, *more])
