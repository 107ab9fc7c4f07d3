"""A sweep as text for a terminal: the ranked plans, and why the others cannot be run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpsim.result.text import caution, format_percent, short_notes
from mpsim.sweeps.model import Row, SweepResult
from mpsim.units import format_bytes, format_duration

__all__ = ["table"]

MOST_REASONS = 6


def table(result: SweepResult, top: int = 10, head: str = "") -> str:
    """Return the fastest plans that fit, and, in a line each, what became of the others.

    Parameters
    ----------
    result : SweepResult
        What was found.
    top : int
        Plans to list; 0: all.
    head : str
        What stands above, under the line that says what may make the table wrong.

    Examples
    --------
    >>> print(table(SweepResult(rows=(), planned=2)))
    interrupted: 0 of 2 plans were tried
    no plan can be run
    """
    above = caution(result.caveats) + head
    blocks = [above.removesuffix("\n") + "\n"] if above else []
    if not result.complete:
        blocks.append(f"interrupted: {len(result.rows)} of {result.planned} plans were tried")
    ranked = result.ranked
    shown = ranked[:top] if top else ranked
    if shown:
        blocks.append(f"{_align(_cells(shown))}\n")
        blocks.append(_ranked_line(result, len(shown)))
    else:
        blocks.append("no plan can be run" if not result.too_large else "no plan fits")
    blocks += _too_large(result) + _reasons(result) + short_notes(result.notes)
    return "\n".join(blocks)


# heading, to the left, text of a row
_COLUMNS: tuple[tuple[str, bool, Callable[[Row], str]], ...] = (
    ("rank", False, lambda row: f"{row['rank']}{'=' if row['tie'] else ' '}"),
    ("devices", False, lambda row: str(row["n_devices"])),
    ("plan", True, lambda row: row["plan"]),
    ("step", False, lambda row: format_duration(row["step_s"])),
    ("5-95 % of trials", False, lambda row: _interval(row)),
    ("speedup", False, lambda row: f"{row['speedup']:.2f}x" if row["speedup"] else ""),
    ("communication", False, lambda row: format_percent(row["communication_overhead_fraction"])),
    # Where a host launches what its device runs: how much of the step the device waits for that.
    (
        "launching",
        False,
        lambda row: format_percent(row["exposed_launch_fraction"]) if row["launch"] == "eager" else "",
    ),
    ("bubble", False, lambda row: format_percent(row["bubble_fraction"])),
    ("peak memory", False, lambda row: format_bytes(row["highest_peak_memory_bytes"])),
    ("fits", True, lambda row: {True: "yes", False: "NO", None: "?"}[row["fits"]]),
    ("fidelity", True, lambda row: row["fidelity"]),
)


def _interval(row: Row) -> str:
    if row["step_p5_s"] == row["step_p95_s"]:
        return ""
    return f"{format_duration(row['step_p5_s'])} to {format_duration(row['step_p95_s'])}"


def _cells(rows: Sequence[Row]) -> list[tuple[str, bool, list[str]]]:
    columns = [(heading, left, [text(row) for row in rows]) for heading, left, text in _COLUMNS]
    return [column for column in columns if any(cell.strip() for cell in column[2])]


def _align(columns: Sequence[tuple[str, bool, list[str]]]) -> str:
    aligned = []
    for heading, left, cells in columns:
        width = max(len(heading), *map(len, cells))
        aligned.append([cell.ljust(width) if left else cell.rjust(width) for cell in (heading, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*aligned, strict=True))


def _ranked_line(result: SweepResult, shown: int) -> str:
    ranked = result.ranked
    first = ranked[0]
    line = f"{shown} of {len(ranked)} plans that can be run and fit" if shown < len(ranked) else f"{len(ranked)} plans"
    if first["fits"] is None:
        line = line.replace(" and fit", "") + "; capacity unknown, so nothing is said about fitting"
    if first["baseline"]:
        line += f"; speedup over {first['baseline']} ({format_duration(first['baseline_step_s'])})"
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
