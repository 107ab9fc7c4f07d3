"""A calibration for people and for programs: its curves, how far they lie from what was measured, every residual."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mpsim import documents
from mpsim.calibration.run import Calibration, Residual, geometric_mean_error
from mpsim.topology.costs import CollectiveCost, Regime
from mpsim.units import format_bandwidth, format_bytes, format_duration

__all__ = ["calibration_text", "calibration_to_dict"]


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """Return the costs and every residual as one JSON object, units in the keys."""
    return {
        "costs": [documents.encode(cost) for cost in calibration.topology.costs],
        "residuals": [
            {
                "kind": one.measured.kind,
                "algorithm": one.algorithm,
                "ranks": one.measured.ranks,
                "bytes": one.measured.bytes,
                "measured_s": one.measured.seconds,
                "modelled_s": one.modelled_s,
                "error_fraction": one.error_fraction,
                "source": one.measured.source,
            }
            for one in calibration.residuals
        ],
    }


def calibration_text(calibration: Calibration) -> str:
    """Return the curves, their errors by number of ranks, and the residuals by size, in percent."""
    lines = []
    for cost in calibration.topology.costs:
        lines += [_head(cost), *(f"  {_regime(regime)}" for regime in cost.regimes)]
    lines += ["", "residuals, modelled above measured in percent"]
    key = lambda one: (one.measured.kind, one.measured.ranks)  # noqa: E731
    for (kind, ranks), group in groupby(sorted(calibration.residuals, key=key), key=key):
        lines += _residuals(kind, ranks, sorted(group, key=lambda one: one.measured.bytes))
    return "\n".join(lines)


def _head(cost: CollectiveCost) -> str:
    ranks = f"{cost.least_ranks}" + (f" to {cost.most_ranks}" if cost.most_ranks > cost.least_ranks else "")
    what = f"{cost.kind} ({cost.algorithm}) over {cost.link}, {ranks} ranks"
    if " between " in cost.unmeasured:
        return f"{what}, {cost.unmeasured}, at most {100 * cost.error_fraction:.0f} % off if it lies between them"
    if cost.unmeasured:
        return f"{what}, {cost.unmeasured}"
    return f"{what}, fit within {100 * cost.error_fraction:.1f} %"


def _regime(regime: Regime) -> str:
    local = regime.local_bytes_per_s
    parts = [
        f"{format_bytes(round(regime.least_bytes))} to {format_bytes(round(regime.most_bytes))}:",
        f"launch {format_duration(regime.launch_s)},",
        f"message {format_duration(regime.step_s)},",
        f"link {format_bandwidth(regime.bandwidth_bytes_per_s)}",
    ]
    return " ".join(parts) + ("" if local == float("inf") else f", own part {format_bandwidth(local)}")


def _residuals(kind: str, ranks: int, found: Sequence[Residual]) -> list[str]:
    errors = [one.error_fraction for one in found]
    worst = max(found, key=lambda one: abs(one.error_fraction))
    head = (
        f"{kind} over {ranks}: mean {100 * geometric_mean_error(errors):.1f}, worst {100 * worst.error_fraction:+.1f}"
        f" at {format_bytes(worst.measured.bytes)} ({worst.measured.source})"
    )
    cells = [f"{format_bytes(one.measured.bytes)} {100 * one.error_fraction:+.1f}" for one in found]
    return [head, *(f"  {', '.join(cells[i : i + 8])}" for i in range(0, len(cells), 8))]
