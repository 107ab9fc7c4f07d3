"""The timeline of a step: one row for each rank that differs, drawn whole, and as numbers for the script that zooms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from mpsim.errors import printable
from mpsim.report.looks import look_of_axis, look_of_gap, look_of_kind, swatch, ticks, time_unit
from mpsim.report.markup import element, picture, plain
from mpsim.result.gaps import gaps_by_device
from mpsim.result.lanes import is_launch, is_transfer
from mpsim.result.model import Result, Spans

__all__ = ["Timeline", "timeline"]

_WIDTH, _LEFT, _TOP = 960.0, 150.0, 24.0
_COMPUTE, _LANE, _GAP = 22.0, 7.0, 8.0  # heights
_MOST_ROWS = 32
_MOST_SPANS = 60_000  # of the script; a few megabytes
_MOST_DRAWN = 6_000
_TICKS = 10_000_000  # of the step: times are whole ones
_THIN = 1.5  # What is narrower is drawn as one with what it touches.
_GAPS = {"wait": "waits for a transfer", "launch": "waits for a launch", "bubble": "bubble", "idle": "idle"}


class Box(NamedTuple):
    """What is drawn at once: from and until, in ticks, and how many spans it is."""

    start: int
    end: int
    look: int
    name: int
    microbatch: int
    covers: int = 1


class Lane(NamedTuple):
    """A line of boxes: of which row, where, how high, and what runs there."""

    row: int
    y: float
    height: float
    name: str
    boxes: list[Box]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A picture, the numbers that it is drawn again from, its legend, and what is to be known of it."""

    picture: Markup
    data: dict[str, Any]
    legend: tuple[tuple[Markup, str], ...]
    notes: tuple[str, ...]


def timeline(result: Result) -> Timeline | None:
    """Return the timeline of a result; None where it has no spans.

    Ranks that do the same at the same moments share a row. Of more than 32 rows the first and the last ones are drawn.
    """
    spans = result.spans
    if not len(spans):
        return None
    end_s = max(spans.end_s) or 1.0
    rows = _rows(result)
    shown, left_out = _chosen(rows)
    looks, names = _Names(), _Names()
    lanes = _lanes(result, shown, end_s, looks, names)
    gaps, _ = _thinned(_gap_lanes(result, shown, lanes, end_s, looks, names))
    lanes, apart = _thinned(lanes)
    height = max(lane.y + lane.height for lane in lanes) + _GAP
    labels = [_label(result, row) for row in shown]
    notes = [f"{left_out:,} more rows, between these, are left out"] if left_out else []
    if apart:
        notes.append(f"spans nearer than {apart / _TICKS:.2g} of the step are drawn as one")
    data = {
        "end": end_s, "ticks": _TICKS, "left": _LEFT, "width": _WIDTH, "top": _TOP, "height": height,
        "unit": list(time_unit(end_s)), "looks": [look for look, _ in looks.known],
        "kinds": [text for _, text in looks.known], "names": names.known,
        "lanes": [[lane.row, lane.y, lane.height, lane.name] for lane in lanes],
        "rows": labels,
        "boxes": [[value for box in lane.boxes for value in box] for lane in lanes],
        "gaps": [[lane.y, lane.height, [value for box in lane.boxes for value in box]] for lane in gaps],
    }  # fmt: skip
    return Timeline(
        picture=_drawn(gaps, lanes, labels, looks.known, data),
        data=data,
        legend=tuple(
            (swatch(look), text) for look, text in sorted(looks.known, key=lambda one: "kag".index(one[0][0]))
        ),
        notes=tuple(notes),
    )


class _Names:
    """Things by number, each once."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def number(self, name: Any) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def known(self) -> list[Any]:
        return list(self._numbers)


def _rows(result: Result) -> list[list[int]]:
    """Return the devices of each row: those together that do the same at the same moments."""
    spans = result.spans
    done: dict[int, list[tuple[Any, ...]]] = {device: [] for device in range(len(result.devices))}
    for i, devices in enumerate(spans.devices):
        what = (spans.kind[i], spans.axis[i], spans.stage[i], spans.microbatch[i], spans.start_s[i], spans.end_s[i])
        for device in devices:
            done[device].append(what)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for device, own in done.items():
        groups.setdefault(tuple(sorted(own)), []).append(device)
    return list(groups.values())


def _chosen(rows: list[list[int]]) -> tuple[list[list[int]], int]:
    if len(rows) <= _MOST_ROWS:
        return rows, 0
    half = _MOST_ROWS // 2
    return [*rows[:half], *rows[-half:]], len(rows) - _MOST_ROWS


def _label(result: Result, row: Sequence[int]) -> str:
    """Return what stands before a row: the first device, how many do the same, and which stages they have."""
    count = sum(result.devices[device].count for device in row)
    name = result.devices[row[0]].name
    name = name if len(name) <= 12 else f"{name[:11]}…"
    spans, device = result.spans, row[0]
    stages = sorted({spans.stage[i] for i, own in enumerate(spans.devices) if device in own and _computes(spans, i)})
    text = f"{name} × {count:,}" if count > 1 else name
    if max(spans.stage) > 0 and stages and stages[0] >= 0:
        text += f" · {_stages(stages)}"
    return text


def _stages(stages: Sequence[int]) -> str:
    if len(stages) == 1:
        return f"stage {stages[0]}"
    return f"stages {', '.join(map(str, stages))}" if len(stages) < 4 else f"stages {stages[0]}…{stages[-1]}"


def _computes(spans: Spans, i: int) -> bool:
    return not (is_transfer(spans, i) or is_launch(spans, i))


def _lane_name(spans: Spans, i: int) -> str:
    """Return the lane that a span lies in: its own for computations, launches and each axis."""
    if is_launch(spans, i):
        return "launch"
    return f"{spans.axis[i]} transfer".strip() if is_transfer(spans, i) else ""


def _look(spans: Spans, i: int) -> tuple[str, str]:
    if is_transfer(spans, i) and not is_launch(spans, i):
        return look_of_axis(spans.axis[i]), printable(f"{spans.axis[i]} transfer".strip())
    return look_of_kind(spans.kind[i]), printable(spans.kind[i].replace("_", " "))


def _lanes(result: Result, rows: Sequence[Sequence[int]], end_s: float, looks: _Names, names: _Names) -> list[Lane]:
    spans = result.spans
    first = {row[0]: number for number, row in enumerate(rows)}
    found: dict[tuple[int, str], list[Box]] = defaultdict(list)
    for i, devices in enumerate(spans.devices):
        box = None
        for device in devices:
            if device in first:
                box = box or Box(
                    round(spans.start_s[i] / end_s * _TICKS), round(spans.end_s[i] / end_s * _TICKS),
                    looks.number(_look(spans, i)), names.number(_name(spans, i)), spans.microbatch[i],
                )  # fmt: skip
                found[first[device], _lane_name(spans, i)].append(box)
    lanes, y = [], _TOP
    for row in range(len(rows)):
        own = {name for number, name in found if number == row}
        for name in ("", *sorted(own - {""})):
            height = _LANE if name else _COMPUTE
            lanes.append(Lane(row, y, height, name, sorted(found.get((row, name), ()))))
            y += height + 1
        y += _GAP
    return lanes


def _gap_lanes(
    result: Result, rows: Sequence[Sequence[int]], lanes: Sequence[Lane], end_s: float, looks: _Names, names: _Names
) -> list[Lane]:
    """Return the gaps between the computations of each row, with what they wait for, behind these."""
    held = gaps_by_device(result, [row[0] for row in rows])
    found = []
    for lane in lanes:
        if not lane.name:
            boxes = [
                Box(
                    round(start_s / end_s * _TICKS), round(min(end_s, until_s) / end_s * _TICKS),
                    looks.number((look_of_gap(cause), _GAPS[cause])), names.number(cause), -1,
                )
                for start_s, until_s, cause in held[rows[lane.row][0]]
                if start_s < end_s
            ]  # fmt: skip
            found.append(lane._replace(boxes=boxes))
    return found


def _name(spans: Spans, i: int) -> str:
    return printable(f"{spans.name[i]}, {spans.kind[i].replace('_', ' ')}")


def _thinned(lanes: list[Lane]) -> tuple[list[Lane], int]:
    """Return lanes of no more boxes than a page holds, and what lies nearer to one another than is told apart."""
    apart = 0
    while sum(len(lane.boxes) for lane in lanes) > _MOST_SPANS and apart < _TICKS:
        apart = max(apart * 2, _TICKS // 100_000)
        lanes = [lane._replace(boxes=_merged(lane.boxes, apart)) for lane in lanes]
    return lanes, apart


def _merged(boxes: Iterable[Box], apart: int) -> list[Box]:
    """Return boxes of which neighbours that are thin, near and alike are one."""
    found: list[Box] = []
    for box in boxes:
        last = found[-1] if found else None
        if (
            last is not None
            and last.look == box.look
            and box.start - last.end < apart
            and (box.end - box.start < apart or last.covers > 1)
            and (last.end - last.start < apart or last.covers > 1)
        ):
            found[-1] = last._replace(end=max(last.end, box.end), covers=last.covers + box.covers)
        else:
            found.append(box)
    return found


def _drawn(
    gaps: Sequence[Lane], lanes: Sequence[Lane], labels: Sequence[str], looks: Sequence[tuple[str, str]],
    data: dict[str, Any],
) -> Markup:  # fmt: skip
    """Return the whole step as a picture, a path for each lane and kind: what is seen without the script."""
    apart = round(_THIN / (_WIDTH - _LEFT) * _TICKS)
    drawn = [lane._replace(boxes=_merged(lane.boxes, apart)) for lane in lanes]
    while sum(len(lane.boxes) for lane in drawn) > _MOST_DRAWN and apart < _TICKS:
        apart *= 2
        drawn = [lane._replace(boxes=_merged(lane.boxes, apart)) for lane in drawn]
    parts = [*_axis(data), *_labels(lanes, labels)]
    behind = [lane._replace(boxes=_merged(lane.boxes, apart)) for lane in gaps]
    parts.append(element("g", *[path for lane in (*behind, *drawn) for path in _paths(lane, looks)], id="spans"))
    words = f"What each rank does in the step, from 0 to {_time(data, data['end'])}: {len(labels)} rows"
    return picture(_WIDTH, data["height"], words, parts, id="timeline-picture")


def _paths(lane: Lane, looks: Sequence[tuple[str, str]]) -> Iterable[Markup]:
    kinds: dict[int, list[str]] = defaultdict(list)
    for box in lane.boxes:
        x, width = _x(box.start), max(_x(box.end) - _x(box.start), 0.4)
        kinds[box.look].append(f"M{x:.4g} {lane.y:.4g}h{width:.3g}v{lane.height:.3g}h-{width:.3g}z")
    return [element("path", d="".join(found), class_=looks[look][0]) for look, found in kinds.items()]


def _x(tick: int) -> float:
    return _LEFT + tick / _TICKS * (_WIDTH - _LEFT)


def _time(data: dict[str, Any], seconds: float) -> str:
    scale, unit = data["unit"]
    return f"{seconds / scale:.4g} {unit}"


def _axis(data: dict[str, Any]) -> list[Markup]:
    scale, unit = data["unit"]
    marks = []
    for value in ticks(data["end"] / scale):
        x = _x(round(value * scale / data["end"] * _TICKS))
        marks.append(element("line", x1=x, x2=x, y1=_TOP - 6, y2=data["height"], class_="grid"))
        marks.append(element("text", f"{value:g} {unit}", x=x, y=_TOP - 10, class_="tick"))
    return [element("g", *marks, id="axis")]


def _labels(lanes: Sequence[Lane], labels: Sequence[str]) -> list[Markup]:
    found = []
    for lane in lanes:
        if lane.name:
            found.append(element("text", lane.name, x=_LEFT - 6, y=lane.y + lane.height, class_="lane"))
        else:
            text = plain(labels[lane.row])
            found.append(element("text", text, x=_LEFT - 6, y=lane.y + lane.height * 0.7, class_="row"))
    return found
