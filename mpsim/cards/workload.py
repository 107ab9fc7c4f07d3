"""A workload's card."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import Any

from mpsim.cards import html
from mpsim.result.text import short_notes
from mpsim.units import format_bytes, format_duration
from mpsim.workload.model import Workload
from mpsim.workload.show import workload_to_dict
from mpsim.workload.split import WHOLE
from mpsim.workload.trust import cautions, doubted, remarks, times_of

__all__ = ["card"]

_Layer = dict[str, Any]
_MOST_ROWS = 14
_TIMES = (
    ("forward", "forward_s"),
    ("backward, inputs", "backward_input_s"),
    ("backward, weights", "backward_weight_s"),
    ("optimizer", "optimizer_s"),
)
_SIZES = (("parameters", "parameter_bytes"), ("kept for backward", "saved_bytes"), ("output", "output_bytes"))
_ALIKE = ("kind", *(field for _, field in _SIZES))


def card(workload: Workload) -> str:
    """Return what a step costs in all, and its layers, like ones that follow one another in one row.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> layers = [Layer.given(name, forward_s=0.5, backward_s=1.0) for name in "abc"]
    >>> "a … c × 3" in card(Workload.chain("three", layers))
    True
    """
    plain = workload_to_dict(workload)
    runs = [[*run] for _, run in groupby(plain["layers"], key=lambda layer: [layer[name] for name in _ALIKE])]
    below = f"and {len(runs) - _MOST_ROWS} more rows: to_frame() has all" if len(runs) > _MOST_ROWS else ""
    blocks = [html.facts(_facts(workload, plain)), html.table(_columns(runs[:_MOST_ROWS]), below)]
    blocks.append(html.lines(short_notes(remarks(workload))))
    return html.card("Workload", workload.name, blocks, cautions=cautions(workload))


def _facts(workload: Workload, plain: dict[str, Any]) -> list[tuple[str, str]]:
    times = "; ".join(f"{name} {format_duration(plain[field])}" for name, field in _TIMES if plain[field])
    precision = workload.precision.name or workload.precision.compute
    costs = [cost for layer in workload.layers for cost in layer.costs]
    splits = sorted({cost.split for cost in costs} - {WHOLE})
    sizes = sorted({cost.microbatch for cost in costs})
    return [
        ("a step", f"{times}; {len(workload.layers)} layers in turn, at micro-batch {workload.microbatch}"),
        ("parameters", format_bytes(plain["parameter_bytes"])),
        ("kept for backward", format_bytes(plain["saved_bytes"])),
        ("micro-batches", ", ".join(map(str, sizes))),
        ("splits", ", ".join(split.text for split in splits)),
        times_of(workload),
        ("precision, optimizer", ", ".join(filter(None, (precision, workload.optimizer)))),
        ("layers / step", _checked(workload)),
    ]


def _checked(workload: Workload) -> str:
    """Return how near the sum of the layers comes to steps that were measured beside it."""
    ratios = [check.ratio for check in workload.checks]
    if not ratios:
        return ""
    doubtful = sum(map(doubted, workload.checks))
    found = f"{min(ratios):.3f} to {max(ratios):.3f}" if len(ratios) > 1 else f"{ratios[0]:.3f}"
    return f"{found} of the whole step, at {len(ratios)} points" + (
        f", {doubtful} of them doubtful" if doubtful else ""
    )


def _columns(runs: Sequence[Sequence[_Layer]]) -> list[html.Column]:
    columns: list[html.Column] = [
        ("layer", True, [_name(run) for run in runs]),
        ("kind", True, [run[0]["kind"] for run in runs]),
    ]
    for name, field in _TIMES:
        columns.append((name, False, [format_duration(median(layer[field] for layer in run)) for run in runs]))
    for name, field in _SIZES:
        columns.append((name, False, [format_bytes(run[0][field]) for run in runs]))
    return columns


def _name(run: Sequence[_Layer]) -> str:
    first, last = run[0]["name"], run[-1]["name"]
    return first if len(run) == 1 else f"{first} … {last} × {len(run)}"
