"""The answer of a search as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpsim.result.text import caution, format_percent, format_tflops, short_notes
from mpsim.search.found import Found
from mpsim.search.rates import Rates
from mpsim.sweeps.model import Row
from mpsim.sweeps.text import percent_or_blank
from mpsim.tables import Text, align, joined
from mpsim.units import format_bytes, format_duration

__all__ = ["answer", "counted", "nearest"]

_MOST_REASONS = 4


def answer(found: Found, rates: Rates, head: str = "") -> Text:
    """Return the best plan of each number of devices, then the fastest of all, and what became of the others.

    Parameters
    ----------
    found : Found
        What was found.
    rates : Rates
        In which units.
    head : str
        What stands above, under the line that says what may make the answer wrong.
    """
    ranked = found.sweep.ranked
    blocks: list[str] = [] if found.complete else ["interrupted: this is the best so far, others may be better"]
    blocks.append(caution(found.sweep.caveats) + head)
    if ranked:
        blocks.append(_titled("The best for each number of devices", found.by_devices, rates, ranked[0]))
        most = [row for row in ranked if row["n_devices"] == ranked[0]["n_devices"]]
        others = [row for row in ranked if row not in found.by_devices]
        if others:
            blocks.append(_titled("The runners-up", others, rates, ranked[0]))
        ties = sum(bool(row["tie"]) for row in most)
        if ties:
            blocks.append(f"= the 5-95 % interval overlaps that of the first: {ties} of these tie with it")
    else:
        blocks.append("No plan fits." if found.unfit else "No plan can be run.")
    blocks += counted(found) + nearest(found) + short_notes(found.sweep.notes)
    return joined("\n", filter(None, blocks))


# What a narrow terminal can be without, the least needed first.
_SPARE = ("rank", "samples/s", "communication", "TFLOP/s/device", "slower by", "tokens/s", "fits", "speedup")


def _titled(title: str, rows: Sequence[Row], rates: Rates, best: Row) -> Text:
    return joined("", [f"{title}\n\n", _table(rows, rates, best), "\n"])


def _table(rows: Sequence[Row], rates: Rates, best: Row) -> Text:
    columns: list[tuple[str, bool, Callable[[Row], str]]] = [
        ("rank", False, lambda row: f"{row['rank']}{'=' if row['tie'] else ' '}"),
        ("devices", False, lambda row: str(row["n_devices"])),
        ("plan", True, lambda row: row["plan"]),
        ("step", False, lambda row: format_duration(row["step_s"])),
        ("slower by", False, lambda row: "" if row is best else format_percent(row["step_s"] / best["step_s"] - 1)),
        ("speedup", False, lambda row: f"{row['speedup']:.2f}x" if row["speedup"] else ""),
        ("samples/s", False, lambda row: "" if rates.tokens else f"{row['global_batch'] / row['step_s']:,.4g}"),
        ("tokens/s", False, lambda row: _or_nothing(rates.tokens_per_s(row), "{:,.0f}".format)),
        ("TFLOP/s/device", False, lambda row: _or_nothing(rates.flops_per_s(row), format_tflops)),
        ("MFU", False, lambda row: percent_or_blank(rates.mfu(row))),
        ("communication", False, lambda row: percent_or_blank(row["communication_overhead_fraction"])),
        ("peak memory", False, lambda row: format_bytes(row["highest_peak_memory_bytes"])),
        ("fits", True, lambda row: {True: "yes", False: "NO", None: "?"}[row["fits"]]),
        (_money_of(rates), False, lambda row: _money(rates, row)),
    ]
    return align(((heading, left, [text(row) for row in rows]) for heading, left, text in columns), _SPARE)


def _or_nothing(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def _money_of(rates: Rates) -> str:
    return f"for {rates.train_tokens:,} tokens" if rates.train_tokens else "a step costs"


def _money(rates: Rates, row: Row) -> str:
    amount = rates.money(row)
    return "" if amount is None or rates.price is None else rates.price.text(amount)


def counted(found: Found) -> list[str]:
    """Return what became of the plans, a line each.

    Examples
    --------
    >>> from mpsim.sweeps.model import SweepResult
    >>> nothing = SweepResult(rows=(), planned=0)
    >>> counted(Found(sweep=nothing, planned=7, counts={"too large": 2}, reasons={}, complete=False))
    ['7 plans: 2 cannot fit, 5 may be the best.']
    """
    count = found.counts
    if not found.complete:
        known = [f"{count[name]:,} {words}" for name, words in _GONE.items() if count.get(name)]
        left = found.planned - sum(count.values())
        return [f"{found.planned:,} plans: {', '.join([*known, f'{left:,} may be the best'])}.", *_why(found)]
    parts = [
        f"{count.get('simulated', 0):,} simulated",
        f"{count.get('bounded', 0):,} that cannot be faster",
        f"{count.get('too large', 0):,} that cannot fit",
        f"{count.get('impossible', 0):,} that cannot be run",
    ]
    said = (
        "; each of the others, cut where its timetable is the shortest, takes longer or does not fit"
        if found.complete and found.sweep.rows
        else ""
    )
    return [f"{found.planned:,} plans: {', '.join(parts)}{said}.", *_why(found)]


_GONE = {
    "simulated": "were simulated", "bounded": "cannot be faster", "too large": "cannot fit",
    "impossible": "cannot be run",
}  # fmt: skip


def _why(found: Found) -> list[str]:
    lines = []
    if found.reasons:
        reasons = sorted(found.reasons.items(), key=lambda one: -one[1])
        lines.append("Why plans, or sizes of axes, are impossible:")
        lines += [f"{number:7,} × {reason}" for reason, number in reasons[:_MOST_REASONS]]
        if len(reasons) > _MOST_REASONS:
            lines.append(f"        and {len(reasons) - _MOST_REASONS} more reasons")
    return lines


def nearest(found: Found) -> list[str]:
    """Return which plan comes nearest to fitting, where none does."""
    if found.unfit is None or found.sweep.ranked:
        return []
    plan, count, capacity = found.unfit
    lacks = f", {format_bytes(count - capacity)} more than a device has" if capacity else ""
    return [f"The nearest to fitting is {plan.text}: it needs {format_bytes(count)} on a device at least{lacks}."]
