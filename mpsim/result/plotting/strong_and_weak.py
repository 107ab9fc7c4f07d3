"""What more devices bring: throughput, strong and weak scaling of the fastest plans, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log2
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from mpsim.errors import MpsimError
from mpsim.result.plotting.described import Described
from mpsim.result.plotting.style import CYCLE, shorten, title
from mpsim.result.text import caution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["scaling"]

Row = Mapping[str, Any]
# Marks and their sizes: hollow, each within the one before it or reaching out of it, so that equal values hide nothing.
_MARKS = (("o", 13.0), ("s", 8.6), ("D", 5.4), ("+", 17.0), ("x", 14.0), ("^", 20.0), ("v", 20.0))
_WIDTH, _HEIGHT, _ENTRY = 5.6, 4.8, 0.17
_NEEDED = ("series", "global_batch", "n_devices", "step_s", "speedup", "batch_per_device", "weak_efficiency_fraction")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One line of a panel: values by number of devices."""

    label: str
    devices: list[int]
    values: list[float]


def scaling(rows: Sequence[Row]) -> Figure:
    """Draw what more devices bring to a batch (strong scaling), and to one that grows with them (weak scaling).

    Where something besides the batch tells series apart, such as the topology of two sweeps, their throughputs stand
    beside that: of tokens where all have some. Panels that would have no line of two points are left out. What strong
    and weak scaling are held against, the fewest devices, is a black dot.

    Parameters
    ----------
    rows : sequence of dict
        As of `mpsim.sweeps.scaling_rows`.

    Raises
    ------
    MpsimError
        A column is missing, or all rows are of one number of devices.

    Examples
    --------
    >>> common = {"series": "", "batch_per_device": 8.0, "weak_efficiency_fraction": None, "step_s": 1.0}
    >>> rows = [common | {"global_batch": 8, "n_devices": n, "speedup": 0.75 * n} for n in (2, 4)]
    >>> [axes.get_ylabel() for axes in scaling(rows).axes]
    ['speedup (×)']
    """
    for name in _NEEDED:
        if rows and name not in rows[0]:
            raise MpsimError(f"a picture of scaling needs the column {name!r}, the table has {', '.join(rows[0])}")
    panels = list(_panels(rows))
    if not panels:
        raise MpsimError(f"{len(rows)} rows have no two numbers of devices to compare: sweep more devices")
    width, heading = _WIDTH * len(panels), _heading(rows, _WIDTH * len(panels))
    most = max(sum(1 + line.label.count("\n") for line in lines) for _, lines in panels)
    height = _HEIGHT + _ENTRY * (most + heading.count("\n"))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, height), layout="constrained", FigureClass=Described, squeeze=False
    )
    plt.close(figure)  # No longer pyplot's: see `axes_for`.
    figure.get_layout_engine().set(wspace=0.05)  # type: ignore[union-attr,call-arg]
    for ax, (panel, lines) in zip(axes[0], panels, strict=True):
        ax.spines[["top", "right"]].set_visible(False)
        panel(ax, lines)
        ax.set_xlabel("devices")
        ax.grid(alpha=0.3)
        below = ax.transAxes + ScaledTranslation(0, -0.55, figure.dpi_scale_trans)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "bbox_transform": below}
        ax.legend(frameon=False, fontsize="small", borderaxespad=0.0, markerscale=0.55, **place)
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def _panels(rows: Sequence[Row]) -> Iterator[tuple[Callable[[Axes, Sequence[_Line]], None], Sequence[_Line]]]:
    """Yield what draws each panel that has something to draw, and its lines."""
    tokens = all(row.get("throughput_tokens_per_s") for row in rows)
    unit = "tokens" if tokens else "samples"
    series = len({row["series"] for row in rows}) > 1
    absolute = [*_lines(rows, "global_batch", "batch {:g}", f"throughput_{unit}_per_s", 1)] if series else []
    strong = [*_lines(rows, "global_batch", "batch {:g}", "speedup", 2)]
    weak = [*_lines(rows, "batch_per_device", "{:.4g} a device", "weak_efficiency_fraction", 2)]
    if absolute and (strong or weak):
        yield partial(_throughput, unit=unit), absolute
    if strong:
        yield _strong, strong
    if weak:
        yield _weak, weak


def _lines(rows: Sequence[Row], column: str, words: str, value: str, least: int) -> Iterator[_Line]:
    """Yield a line for each series and value of a column, of so many numbers of devices at least."""
    groups: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        if row[value] is not None:
            groups.setdefault((row["series"] or "", row[column]), {})[row["n_devices"]] = row[value]
    order = [*dict.fromkeys(series for series, _ in groups)]
    alone = len({number for _, number in groups}) == 1 and len(order) > 1
    for (series, number), points in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        if len(points) >= least:
            words_of = [series, *([] if alone else [words.format(number)])]
            devices = sorted(points)
            label = shorten(", ".join(filter(None, words_of)), 64)
            yield _Line(label=label, devices=devices, values=[points[n] for n in devices])


def _throughput(ax: Axes, lines: Sequence[_Line], *, unit: str) -> None:
    _devices(ax, lines)
    _draw(ax, lines, base=False)
    values = [value for line in lines for value in line.values]
    ax.set_yscale("log")
    ax.set_ylim(min(values) * 0.8, max(values) * 1.25)
    ax.yaxis.set_major_locator(FixedLocator(_round_numbers(min(values) * 0.8, max(values) * 1.25)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel(f"{unit} per second")
    title(ax, ["throughput"], _WIDTH)


def _strong(ax: Axes, lines: Sequence[_Line]) -> None:
    _devices(ax, lines)
    fewest, most = (pick(n for line in lines for n in line.devices) for pick in (min, max))
    for first in sorted({line.devices[0] for line in lines}):
        last = max(line.devices[-1] for line in lines if line.devices[0] == first)
        label = "ideal" if first == fewest else None
        ax.plot([first, last], [1, last / first], color="black", ls="--", lw=1.0, label=label, zorder=1)
    _draw(ax, lines, base=True)
    values = [value for line in lines for value in line.values]
    ax.set_yscale("log", base=2)
    ax.set_ylim(min(0.85, min(values) * 0.85), max(most / fewest, *values) * 1.18)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel("speedup (×)")
    title(ax, ["strong scaling: the same batch", f"over {_said(lines)}"], _WIDTH)


def _weak(ax: Axes, lines: Sequence[_Line]) -> None:
    _devices(ax, lines)
    ax.axhline(1.0, color="black", ls="--", lw=1.0, label="ideal", zorder=1)
    _draw(ax, lines, base=True)
    values = [value for line in lines for value in line.values]
    low, high = min(values), max(1.0, *values)
    room = 0.12 * max(high - low, 0.05)
    ax.set_ylim(low - room, high + room)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g} %"))
    ax.set_ylabel("throughput of a device")
    title(ax, ["weak scaling: the same batch a device", f"100 %: {_said(lines)}"], _WIDTH)


def _said(lines: Sequence[_Line]) -> str:
    """Say what the lines are held against."""
    fewest = {line.devices[0] for line in lines}
    count = min(fewest)
    return "the fewest devices" if len(fewest) > 1 else f"{count} device{'s' * (count > 1)}"


def _devices(ax: Axes, lines: Sequence[_Line]) -> None:
    counts = sorted({n for line in lines for n in line.devices})
    ax.set_xscale("log", base=2)
    ax.set_xlim(counts[0] / 1.18, counts[-1] * 1.18)
    ax.xaxis.set_major_locator(FixedLocator([float(n) for n in _apart(counts)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _apart(counts: Sequence[int]) -> list[int]:
    """Return the numbers whose labels do not run into each other, powers of two first.

    Examples
    --------
    >>> _apart([1, 2, 3, 4, 5, 31, 32])
    [1, 2, 3, 4, 5, 32]
    """
    octaves = log2(counts[-1] / counts[0]) + 0.5
    kept: list[int] = []
    for n in sorted(counts, key=lambda n: (n & (n - 1) != 0, n)):
        # A digit is a tenth of an inch wide, and as much is left free.
        wide = 0.1 * (len(str(n)) + 1) * octaves / (_WIDTH - 1.2)
        if all(abs(log2(n / other)) >= wide for other in kept):
            kept.append(n)
    return sorted(kept)


def _round_numbers(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten between, or all their tenths where these are few.

    Examples
    --------
    >>> _round_numbers(80.0, 600.0), _round_numbers(11.0, 14.0)
    ([100.0, 200.0, 500.0], [11.0, 12.0, 13.0, 14.0])
    """
    powers = range(int(log2(low) / log2(10)) - 2, int(log2(high) / log2(10)) + 2)
    for digits in ((1, 10), (10, 20, 50), (10, 15, 20, 30, 50, 70), tuple(range(10, 100))):
        found = sorted({float(f"{digit}e{power - 1}") for power in powers for digit in digits})
        inside = [number for number in found if low <= number <= high]
        if len(inside) >= (3 if len(digits) < 20 else 0):
            return inside[:: -(-len(inside) // 10)]
    return []


def _draw(ax: Axes, lines: Sequence[_Line], *, base: bool) -> None:
    """Draw the lines with marks that hide none of the others; what all are held against as one dot."""
    for i, line in enumerate(lines):
        style: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "lw": 1.4, "ls": ("-", "-.", ":")[i // len(CYCLE) % 3]}
        ax.plot(line.devices, line.values, zorder=2, **style)
        marker, size = _MARKS[i % len(_MARKS)]
        larger = 1.0 + 0.25 * (i // len(_MARKS))  # than that of an earlier line
        marks: dict[str, Any] = {
            "marker": marker, "markersize": size * larger, "markerfacecolor": "none", "markeredgewidth": 1.3,
        }  # fmt: skip
        ax.plot(line.devices[base:], line.values[base:], zorder=3, label=line.label, **style, **marks)
    if base:
        firsts = sorted({line.devices[0] for line in lines})
        ax.plot(firsts, [1.0] * len(firsts), "o", color="black", markersize=3, zorder=4)


def _heading(rows: Sequence[Row], width: float) -> str:
    """Say what the picture is about, and first what may make it wrong."""
    named = [
        ", ".join(dict.fromkeys(str(row[name]) for row in rows if row.get(name))) for name in ("workload", "topology")
    ]
    caveats = dict.fromkeys(one for row in rows for one in (row.get("caveats") or "").split("; ") if one)
    unknown = any(row.get("fits", True) is None for row in rows)
    lines = [
        caution([*caveats]).strip(),
        " on ".join(filter(None, named)),
        "fastest plan that fits on each number of devices" + ", where memory is known" * unknown,
    ]
    return "\n".join(shorten(line, int(width * 11)) for line in lines if line)
