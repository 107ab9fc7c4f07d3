"""Sweeps as text for a terminal: the ranked plans, why the others cannot be run, what more devices bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from mpsim.result.text import caution, format_percent, format_tflops, short_notes
from mpsim.sweeps.model import Row, SweepResult
from mpsim.sweeps.strong_and_weak import scaling_rows
from mpsim.tables import Column, Text, align, filled, joined
from mpsim.units import format_bytes, format_duration

__all__ = ["percent_or_blank", "ranked_columns", "said_of", "scaling_text", "table"]

MOST_REASONS = 6
# heading, to the left, text of a row
_Columns = tuple[tuple[str, bool, Callable[[Row], str]], ...]


def table(result: SweepResult, top: int = 10, head: str = "") -> Text:
    """Return the fastest plans that fit, and, in a line each, what became of the others.

    Of several workloads or batches what more devices bring to each comes first.

    Parameters
    ----------
    result : SweepResult
        What was found.
    top : int
        Plans to list, of each workload and batch; 0: all.
    head : str
        What stands above, under the line that says what may make the table wrong.

    Examples
    --------
    >>> print(table(SweepResult(rows=(), planned=2)))
    interrupted: 0 of 2 plans were tried
    no plan can be run
    """
    groups = result.groups or (result,)
    above = caution(result.caveats) + head
    blocks: list[str] = [above.removesuffix("\n") + "\n"] if above else []
    if not result.complete:
        blocks.append(f"interrupted: {len(result.rows)} of {result.planned} plans were tried")
    if len(groups) > 1:
        blocks += [_scaling(scaling_rows(result)), ""]
    shown = [group.ranked[:top] if top else group.ranked for group in groups]
    if any(shown):
        blocks += [align(_cells(_columns_of(groups), [*chain(*shown)]), _SPARE), ""]
    for group, rows in zip(groups, shown, strict=True):
        lines = (_outcome(group, len(rows)), *_too_large(group))
        blocks += [_name_of(group, groups) + line for line in lines]
    return joined("\n", [*blocks, *_reasons(result), *short_notes(result.notes)])


def ranked_columns(result: SweepResult, rows: Sequence[Row]) -> list[Column]:
    """Return some of a sweep's ranked plans as columns of text.

    What tells the sweep's workloads and batches apart comes first.
    """
    return _cells(_columns_of(result.groups), rows)


def said_of(result: SweepResult, shown: int) -> list[str]:
    """Return what became of a sweep's plans, a line each, where so many of each workload and batch are listed.

    Examples
    --------
    >>> said_of(SweepResult(rows=(), planned=2), 10)
    ['interrupted: 0 of 2 plans were tried', 'no plan can be run']
    """
    groups = result.groups or (result,)
    found = [] if result.complete else [f"interrupted: {len(result.rows)} of {result.planned} plans were tried"]
    for group in groups:
        own = (_outcome(group, min(shown, len(group.ranked))), *_too_large(group))
        found += [_name_of(group, groups) + line for line in own]
    return [*"\n".join(found).split("\n"), *_reasons(result)]


def _outcome(group: SweepResult, shown: int) -> str:
    if shown:
        return _ranked_line(group, shown)
    return "no plan can be run" if not group.too_large else "no plan fits"


def _name_of(group: SweepResult, groups: Sequence[SweepResult]) -> str:
    """Return the words that tell a group's lines from those of others; "" of the only one."""
    differing = _differing(groups)
    words = {"workload": "{}", "topology": "{}", "global_batch": "batch {}"}
    return ", ".join(words[name].format(group.rows[0][name]) for name in differing) + ": " * bool(differing)


def _differing(groups: Sequence[SweepResult]) -> list[str]:
    """Return the columns by which groups are told apart."""
    first = [group.rows[0] for group in groups if group.rows]
    return [name for name in ("workload", "topology", "global_batch") if len({row[name] for row in first}) > 1]


def _columns_of(groups: Sequence[SweepResult]) -> _Columns:
    """Return the columns of a table, with those by which groups are told apart."""
    headings = {"workload": "workload", "topology": "topology", "global_batch": "batch"}
    own = [(headings[name], name != "global_batch", partial(_text, name)) for name in _differing(groups)]
    common = len({row["fidelity"] for group in groups for row in group.ranked}) == 1
    return (*own, *(column for column in _COLUMNS if not (common and column[0] == "fidelity")))


def _text(name: str, row: Row) -> str:
    return str(row[name])


_COLUMNS: _Columns = (
    ("rank", False, lambda row: f"{row['rank']}{'=' if row['tie'] else ' '}"),
    ("devices", False, lambda row: str(row["n_devices"])),
    ("plan", True, lambda row: row["plan"]),
    ("step", False, lambda row: format_duration(row["step_s"])),
    ("5-95 % of trials", False, lambda row: _interval(row)),
    ("speedup", False, lambda row: f"{row['speedup']:.2f}x" if row["speedup"] else ""),
    ("tokens/s", False, lambda row: _or_nothing(row["throughput_tokens_per_s"], "{:,.0f}".format)),
    ("TFLOP/s/device", False, lambda row: _or_nothing(row["device_flops_per_s"], format_tflops)),
    ("MFU", False, lambda row: percent_or_blank(row["mfu_fraction"])),
    ("communication", False, lambda row: percent_or_blank(row["communication_overhead_fraction"])),
    # Where a host launches what its device runs: how much of the step the device waits for that.
    (
        "launching",
        False,
        lambda row: format_percent(row["exposed_launch_fraction"]) if row["launch"] == "eager" else "",
    ),
    ("bubble", False, lambda row: percent_or_blank(row["bubble_fraction"])),
    ("peak memory", False, lambda row: format_bytes(row["highest_peak_memory_bytes"])),
    ("fits", True, lambda row: {True: "yes", False: "NO", None: "?"}[row["fits"]]),
    ("fidelity", True, lambda row: row["fidelity"]),
)


# What a narrow terminal can be without, the least needed first.
_SPARE = (
    "fidelity", "launching", "bubble", "TFLOP/s/device", "5-95 % of trials", "communication", "rank", "tokens/s",
)  # fmt: skip


def _or_nothing(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def _interval(row: Row) -> str:
    if row["step_p5_s"] == row["step_p95_s"]:
        return ""
    return f"{format_duration(row['step_p5_s'])} to {format_duration(row['step_p95_s'])}"


def _cells(columns_of: _Columns, rows: Sequence[Row]) -> list[Column]:
    return filled((heading, left, [text(row) for row in rows]) for heading, left, text in columns_of)


def _ranked_line(result: SweepResult, shown: int) -> str:
    ranked = result.ranked
    first = ranked[0]
    line = f"{shown} of {len(ranked)} plans that can be run and fit" if shown < len(ranked) else f"{len(ranked)} plans"
    if first["fits"] is None:
        line = line.replace(" and fit", "") + "; capacity unknown, so nothing is said about fitting"
    if first["baseline"]:
        line += f"; speedup over {first['baseline']} ({format_duration(first['baseline_step_s'])})"
    if len(found := {row["fidelity"] for row in ranked}) == 1:
        line += f"; fidelity: {found.pop()}"
    ties = sum(bool(row["tie"]) for row in ranked)
    if ties:
        line += (
            f"\n= the 5-95 % interval overlaps that of the first: {ties} {'plan ties' if ties == 1 else 'plans tie'}"
        )
    return line


def _too_large(result: SweepResult) -> list[str]:
    rows = result.too_large
    if not rows:
        return []
    least: dict[str, Any] = min(rows, key=lambda row: int(row["highest_peak_memory_bytes"]))
    return [
        f"{len(rows)} more {'would run but does' if len(rows) == 1 else 'would run but do'} not fit; the least needs"
        f" {format_bytes(least['highest_peak_memory_bytes'])} on a device ({least['plan']})"
    ]


def _reasons(result: SweepResult) -> list[str]:
    reasons = result.reasons
    if not reasons:
        return []
    total = sum(count for _, count in reasons)
    lines = [f"{total} of {result.planned} cannot be run, for reasons such as:"]
    lines += [f"{count:6} × {reason}" for reason, count in reasons[:MOST_REASONS]]
    if len(reasons) > MOST_REASONS:
        lines.append(f"       and {len(reasons) - MOST_REASONS} more reasons, each in its row (-o)")
    return lines


def scaling_text(rows: Sequence[Row]) -> Text:
    """Return what more devices bring, as `mpsim.sweeps.strong_and_weak.scaling_rows` has it, as a table.

    Parameters
    ----------
    rows : sequence of dict
        The fastest plan on each number of devices.

    Examples
    --------
    >>> from mpsim.sweeps.strong_and_weak import SCALING_COLUMNS
    >>> row = dict.fromkeys(SCALING_COLUMNS) | {
    ...     "global_batch": 8, "n_devices": 2, "plan": "dp=2", "step_s": 0.5, "throughput_samples_per_s": 16.0,
    ...     "speedup": 1.5, "efficiency_fraction": 0.75, "speedup_over_devices": 1, "batch_per_device": 4.0}
    >>> print(scaling_text([row]).splitlines()[0])
    batch  devices  plan    step  samples/s  speedup  efficiency  batch/device  fits
    """
    caveats = dict.fromkeys(one for row in rows for one in (row["caveats"] or "").split("; ") if one)
    return joined("", [caution([*caveats]), _scaling(rows)])


def _scaling(rows: Sequence[Row]) -> Text:
    if not rows:
        return joined("", ["no plan that can be run fits: nothing is said of more devices"])
    lines = [
        align(_cells(_SCALING, rows), ("fits", "batch/device", "samples/s")),
        "",
        "speedup: of the same batch, over the fewest devices with a plan; efficiency: by as many times the devices",
    ]
    if any(row["weak_efficiency_fraction"] is not None for row in rows):
        lines.append("weak: throughput of a device, by that on the fewest devices with the same batch a device")
    return joined("\n", lines)


_SCALING: _Columns = (
    ("series", True, lambda row: row["series"] or ""),
    ("batch", False, lambda row: str(row["global_batch"])),
    ("devices", False, lambda row: str(row["n_devices"])),
    ("plan", True, lambda row: row["plan"]),
    ("step", False, lambda row: format_duration(row["step_s"])),
    ("samples/s", False, lambda row: _number(row["throughput_samples_per_s"])),
    ("tokens/s", False, lambda row: _number(row["throughput_tokens_per_s"])),
    ("speedup", False, lambda row: f"{row['speedup']:.2f}x"),
    ("efficiency", False, lambda row: percent_or_blank(row["efficiency_fraction"])),
    ("batch/device", False, lambda row: _number(row["batch_per_device"])),
    ("weak", False, lambda row: percent_or_blank(row["weak_efficiency_fraction"])),
    ("fits", True, lambda row: {True: "yes", False: "NO", None: "?"}[row["fits"]]),
)


def percent_or_blank(fraction: float | None) -> str:
    """Write a fraction for people; nothing where it is not known, as of a search that was interrupted.

    Examples
    --------
    >>> percent_or_blank(0.5), percent_or_blank(None)
    ('50.0 %', '')
    """
    return "" if fraction is None else format_percent(fraction)


def _number(value: float | None) -> str:
    """Return a number to four digits."""
    if value is None:
        return ""
    return f"{float(f'{value:.4g}'):,.10g}"
