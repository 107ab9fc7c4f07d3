"""An explanation as text for a terminal, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mpsim.explanation.compare import Beside
from mpsim.explanation.model import FullLink, Part, PathStep, WhatIf
from mpsim.result.text import format_percent
from mpsim.tables import Text, align_rows, facts, joined
from mpsim.units import format_duration

__all__ = ["comparison_text", "facts_text", "links_text", "parts_text", "path_text", "what_ifs_text"]

_MOST_LEGS, _MOST_PASSES, _MOST_KINDS, _MOST_LINKS, _MOST_SPANS = 16, 4, 6, 6, 3
_LAUNCH = "launch"
_WORTH_SAYING = 0.01  # of the step
_Row = tuple[str, ...]


def facts_text(parts: Sequence[Part], what_ifs: Sequence[WhatIf], step_s: float, batch: int) -> Text:
    """Return how long the step takes, where most is lost, and what would give most on the same devices and batch.

    Examples
    --------
    >>> print(facts_text([Part(name="compute", seconds=0.75), Part(name="bubble", seconds=0.25)], [], 1.0, 8))
    step            1 s, every time at its median
    most lost to    pipeline bubble, 25.0 % of it
    """
    said = [("step", f"{format_duration(step_s)}, every time at its median")]
    lost = max((part for part in parts if part.name != "compute"), key=lambda part: part.seconds, default=None)
    if lost is not None:
        said.append(("most lost to", f"{lost.label}, {format_percent(lost.seconds / step_s)} of it"))
    for one in what_ifs:
        ours = one.plan is not None and one.global_batch == batch and "node" not in one.name and one.fits is not False
        if ours and one.gain_fraction is not None and one.gain_fraction > _WORTH_SAYING:
            said.append(("best change", f"{one.name}, a sample takes {_gain(one.gain_fraction)}"))
            break
    return facts(said)


def parts_text(parts: Sequence[Part], step_s: float) -> Text:
    """Return where the step goes, a line for each part.

    Examples
    --------
    >>> print(parts_text([Part(name="compute", seconds=0.75), Part(name="bubble", seconds=0.25)], 1.0))
    where the step goes    time  of step
    computing            750 ms   75.0 %
    pipeline bubble      250 ms   25.0 %
    all of it               1 s  100.0 %
    """
    rows = [(part.label, format_duration(part.seconds), format_percent(part.seconds / step_s)) for part in parts]
    rows.append(("all of it", format_duration(step_s), format_percent(1.0)))
    return _aligned("where the step goes", ("time", "of step"), rows, right=(1, 2))


def comparison_text(rows: Sequence[Beside], a_s: float, b_s: float) -> Text:
    """Return the parts of two steps side by side, a line for each part.

    Examples
    --------
    >>> print(comparison_text([Beside("computing", 2.0, 1.0)], 2.0, 1.0))
    where the step goes    A    B  B - A
    computing            2 s  1 s   -1 s
    all of it            2 s  1 s   -1 s
    """
    cells = [(row.label, row.a_s, row.b_s) for row in (*rows, Beside("all of it", a_s, b_s))]
    lines = [(label, format_duration(a), format_duration(b), format_duration(b - a)) for label, a, b in cells]
    return _aligned("where the step goes", ("A", "B", "B - A"), lines, right=(1, 2, 3))


def path_text(path: Sequence[PathStep], step_s: float) -> Text:
    """Return the critical path: what it is made of, and its legs; of many the first and the last ones."""
    if not path:
        return joined("", [])
    legs = _legs(path)
    shown = [_leg(one) for one in legs]
    if len(legs) > _MOST_LEGS:
        half = _MOST_LEGS // 2
        shown = [*shown[:half], ("…", "", f"{len(legs) - 2 * half:,} more", ""), *shown[-half:]]
    table = _aligned("critical path", ("takes", "where", "what"), shown, right=(1,))
    return joined("\n\n", [_made_of(path, step_s), table])


def _made_of(path: Sequence[PathStep], step_s: float) -> str:
    """Say of what the path is made, where it goes on longest, and what held it up on the way."""
    sums: dict[str, float] = {}
    for one in path:
        name = f"{one.what} over {one.link}" if one.link else one.what
        sums[name] = sums.get(name, 0.0) + one.takes_s
    order = sorted(sums.items(), key=lambda item: -item[1])
    told = ", ".join(f"{name} {format_percent(seconds / step_s)}" for name, seconds in order[:_MOST_KINDS])
    others = " and others" * (len(order) > _MOST_KINDS)
    lines = [f"The step waits for one task after another, {len(path):,} in all: {told}{others}."]
    longest = max(_stays(path), key=lambda leg: leg[-1].end_s - leg[0].start_s)
    takes_s = longest[-1].end_s - longest[0].start_s
    if takes_s < step_s:
        _, _, where, what = _leg(longest)
        lines.append(f"Longest in one place: {where}, {format_percent(takes_s / step_s)} of the step: {what}.")
    waits = {
        "latency of transfers, which no bandwidth shortens": sum(one.latency_s for one in path),
        "transfers that share their links with others": sum(one.shared_s for one in path),
    }
    said = [
        f"{format_percent(seconds / step_s)} is {name}" for name, seconds in waits.items() if seconds > 1e-3 * step_s
    ]
    return "\n".join([*lines, *([f"Of the step {' and '.join(said)}."] if said else [])])


def _legs(path: Sequence[PathStep]) -> list[list[PathStep]]:
    """Return the path in legs: its stays, told apart by pass where there are few of them one after another."""
    legs: list[list[PathStep]] = []
    for stay in _stays(path):
        parts = [stay] if all(one.moves for one in stay) else _passes(stay)
        legs += parts if len(parts) <= _MOST_PASSES else [stay]
    return legs


def _stays(path: Sequence[PathStep]) -> list[list[PathStep]]:
    """Return what the path has of one device without a break, collectives in between included, and what moves then."""
    groups = groupby(range(len(path)), key=_places(path).__getitem__)
    return [[path[i] for i in group] for _, group in groups]


def _places(path: Sequence[PathStep]) -> list[tuple[str, ...]]:
    """Return to what stay each task belongs: a device's, where it works before and after; else that of its axis."""
    alone = [None if one.moves else one.devices for one in path]
    before, behind = list(alone), list(alone)
    for i in range(1, len(path)):
        before[i] = before[i] or before[i - 1]
        behind[-1 - i] = behind[-1 - i] or behind[-i]
    found = []
    for one, own, first, last in zip(path, alone, before, behind, strict=True):
        within = first if first == last and one.microbatch >= 0 else None
        found.append(own or within or ("", one.what.partition(" ")[0]))
    return found


def _passes(stay: Sequence[PathStep]) -> list[list[PathStep]]:
    """Return a device's stay cut where it goes over from one pass to another; what is in between goes with the next."""
    parts: list[list[PathStep]] = []
    kind, between = "", list[PathStep]()
    for one in stay:
        if one.moves or one.what == _LAUNCH:
            between.append(one)
            continue
        if one.what != kind or not parts:
            kind = one.what
            parts.append([])
        parts[-1] += [*between, one]
        between = []
    if not parts:
        return [between]
    parts[-1] += between
    return parts


def _leg(leg: Sequence[PathStep]) -> _Row:
    """Return a leg as a row: since when, how long, where, what."""
    counts: dict[str, list[PathStep]] = {}
    for one in leg:
        counts.setdefault(one.what, []).append(one)
    what = ", ".join(_times(what, steps) for what, steps in counts.items())
    devices = next((one.devices for one in leg if not one.moves), leg[0].devices)
    arrow = " → " if leg[0].what.endswith("send") else " … "
    where = devices[0] if len(devices) == 1 else arrow.join((devices[0], devices[-1]))
    works = [one for one in leg if not one.moves]
    works = [one for one in works if one.what != _LAUNCH] or works
    stages = sorted({one.stage for one in works if one.stage >= 0})
    where += f" (stage {', '.join(map(str, stages))})" if stages else ""
    return format_duration(leg[0].start_s), format_duration(leg[-1].end_s - leg[0].start_s), where, what


def _times(what: str, steps: Sequence[PathStep]) -> str:
    """Return what is done, how often, and from which to which name."""
    names = [name for name, _ in groupby(one.name for one in steps)]
    own = list(dict.fromkeys(names))
    between = " and ".join(own) if len(own) < 3 else f"{names[0]} to {names[-1]}"
    link = f" over {steps[0].link}" if steps[0].link else ""
    count = f"{len(steps)} × " if len(steps) > 1 else ""
    return f"{count}{what} {between}{link}"


def links_text(links: Sequence[FullLink], step_s: float) -> Text:
    """Return which links are full and when, the longest first; none that are so for less than 1 % of the step.

    Examples
    --------
    >>> full = FullLink(source="d0", target="d1", kind="eth_10g", full_s=0.5, shared_s=0.0, when=((0.25, 0.75),),
    ...                 users=(("pp send", 0.5),))
    >>> print(links_text([full], 1.0))
    full links  kind     of the step  with     from
    d0 → d1     eth_10g  50.0 %       pp send  250 ms for 500 ms
    """
    told = [one for one in links if one.full_s >= _WORTH_SAYING * step_s]
    if not told:
        most = f": {links[0].kind} for {format_percent(links[0].full_s / step_s)} at most" if links else ""
        return joined("", [f"no link is full for 1 % of the step{most}"])
    rows = [_full(one, step_s) for one in told[:_MOST_LINKS]]
    more = [f"and {len(told) - _MOST_LINKS:,} more that are full for less"] if len(told) > _MOST_LINKS else []
    return joined("\n", [_aligned("full links", ("kind", "of the step", "with", "from"), rows), *more])


def _full(one: FullLink, step_s: float) -> _Row:
    name = f"{one.source} → {one.target}" + (f" and {one.count - 1} alike" if one.count > 1 else "")
    longest = sorted(sorted(one.when, key=lambda span: span[0] - span[1])[:_MOST_SPANS])
    when = ", ".join(f"{format_duration(since)} for {format_duration(until - since)}" for since, until in longest)
    more = len(one.when) - len(longest)
    when += f" and {'once' if more == 1 else f'{more:,} times'} more" if more else ""
    full = format_percent(one.full_s / step_s)
    if one.shared_s >= _WORTH_SAYING * step_s:
        full += f", {format_percent(one.shared_s / step_s)} by several"
    return name, one.kind, full, ", ".join(user for user, _ in one.users), when


def what_ifs_text(what_ifs: Sequence[WhatIf]) -> Text:
    """Return what each change would give, and which cannot be run.

    Examples
    --------
    >>> faster = WhatIf(name="no latency", step_s=0.75, global_batch=8, gain_fraction=0.25)
    >>> print(what_ifs_text([faster, WhatIf(name="CUDA graphs", reason="the trace has one clock")]))
    what if     step    a sample takes
    no latency  750 ms  25.0 % less
    <BLANKLINE>
    not run: CUDA graphs: the trace has one clock
    """
    rows = []
    for one in what_ifs:
        if one.step_s is not None and one.gain_fraction is not None:
            details = [one.detail, "does not fit" * (one.fits is False)]
            rows.append(
                (one.name, format_duration(one.step_s), _gain(one.gain_fraction), ", ".join(filter(None, details)))
            )
    lines = [f"not run: {one.name}: {one.reason}" for one in what_ifs if one.step_s is None]
    table = _aligned("what if", ("step", "a sample takes", ""), rows) if rows else ""
    return joined("\n\n", filter(None, (table, "\n".join(lines))))


def _gain(fraction: float) -> str:
    if abs(fraction) < 5e-4:
        return "as long"
    return f"{format_percent(abs(fraction))} {'less' if fraction > 0 else 'more'}"


def _aligned(name: str, head: Sequence[str], rows: Sequence[_Row], right: Sequence[int] = ()) -> Text:
    """Align columns under their headings; of those to the right these are too."""
    return align_rows([(name, *head), *rows], [i for i in range(len(head) + 1) if i not in right])
