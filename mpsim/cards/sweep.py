"""The cards of a sweep and of a search: their best plans, and what became of the others."""

from __future__ import annotations

from collections.abc import Sequence

from mpsim.cards import html
from mpsim.result.text import short_notes
from mpsim.search.found import Found
from mpsim.search.text import counted, nearest
from mpsim.sweeps.model import Row, SweepResult
from mpsim.sweeps.text import ranked_columns, said_of

__all__ = ["found_card", "sweep_card"]

_MOST_ROWS, _MOST_LINES = 12, 8


def sweep_card(result: SweepResult) -> str:
    """Return the fastest plans of each workload and batch, and, in a line each, what became of the others.

    Examples
    --------
    >>> "no plan can be run" in sweep_card(SweepResult(rows=(), planned=0))
    True
    """
    groups = result.groups
    each = max(1, _MOST_ROWS // max(1, len(groups)))
    rows = [row for group in groups for row in group.ranked[:each]][:_MOST_ROWS]
    return _card("Sweep", result, rows, [*_few(said_of(result, each)), *short_notes(result.notes)])


def found_card(found: Found) -> str:
    """Return the fastest plan of each number of devices, and what became of the others.

    Examples
    --------
    >>> empty = SweepResult(rows=(), planned=0)
    >>> "7 plans" in found_card(Found(sweep=empty, planned=7, counts={}, reasons={}, complete=False))
    True
    """
    said = [] if found.complete else ["interrupted: this is the best so far, others may be better"]
    said += ["the best of each number of devices"] if found.by_devices else []
    said += [*counted(found), *nearest(found), *short_notes(found.sweep.notes)]
    return _card("Search", found.sweep, found.by_devices[-_MOST_ROWS:], said)


def _card(kind: str, result: SweepResult, rows: Sequence[Row], said: Sequence[str]) -> str:
    first = result.rows[0] if result.rows else {"workload": "nothing", "topology": "nothing"}
    workloads = {row["workload"] for row in result.rows}
    name = first["workload"] if len(workloads) < 2 else f"{len(workloads)} workloads"
    batches = sorted({row["global_batch"] for row in result.rows})
    batch = f", batch {batches[0]}" if len(batches) == 1 else f", {len(batches)} batches" if batches else ""
    columns = [one for one in ranked_columns(result, rows) if one[0] != "fidelity" or len(set(one[2])) > 1]
    shown = html.table(columns) if rows else ""
    return html.card(kind, f"{name} on {first['topology']}{batch}", [shown, html.lines(said)], cautions=result.caveats)


def _few(said: Sequence[str]) -> list[str]:
    return [*said[:_MOST_LINES], *([f"and {len(said) - _MOST_LINES} more lines"] if len(said) > _MOST_LINES else [])]
