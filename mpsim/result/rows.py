"""Which devices a picture of a step shows: of those that do the same at the same moments one, which stands for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mpsim.result.lanes import is_launch, is_transfer
from mpsim.result.model import Result

__all__ = ["Row", "distinct_rows"]

_MOST = 24  # Of more rows, those that run the same at other moments (noise, slow devices) are one too.
_MOST_STAGES = 4  # Of more, as looped schedules have them, the ends are named.


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a timeline.

    Attributes
    ----------
    device : int
        Which of the result's devices is drawn.
    count : int
        For how many it stands, itself included.
    name : str
        What stands beside it: stages, device, and for how many it stands.
    stages : tuple of int
        Those that it computes; none where the step has but one.
    alike : bool
        All that it stands for do the same at the same moments; else one that ends last is drawn.
    """

    device: int
    count: int
    name: str
    stages: tuple[int, ...] = ()
    alike: bool = True


def distinct_rows(result: Result, *, most: int | None = _MOST) -> list[Row]:
    """Return a row for each distinct rank, in the order of the devices.

    Devices with the same spans, to a millionth of the step, share a row; without spans each has its own. Of more than
    `most` distinct ones (None: however many) those that run the same passes in the same order share one too, whatever
    their times: those of the slowest replica stand for all.

    Examples
    --------
    >>> from mpsim.result.model import DeviceUse, Spans
    >>> spans = Spans(name=("0F0", "0F0"), kind=("forward",) * 2, axis=("", ""), devices=((0,), (1,)), stage=(0, 0),
    ...               microbatch=(0, 0), bytes=(0, 0), start_s=(0.0, 0.0), end_s=(2.0, 2.0))
    >>> uses = [DeviceUse(name=f"gpu{i}", compute_s=2.0, exposed_communication_s=0.0, idle_s=0.0) for i in range(2)]
    >>> result = Result(workload="mlp", topology="pair", plan="dp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=2.0,
    ...                 devices=tuple(uses), spans=spans)
    >>> [(row.device, row.count, row.name) for row in distinct_rows(result)]
    [(0, 2, 'gpu0 × 2')]
    """
    held = _spans_by_device(result)
    groups = _groups(result, held, timed=True)
    alike = True
    if most is not None and len(groups) > most:
        fewer = _groups(result, held, timed=False)
        alike = len(fewer) == len(groups)
        groups = groups if alike else fewer
    drawn = [group[0] for group in groups] if alike else _slowest(result, held, groups)
    named = len({stage for stage in result.spans.stage if stage >= 0}) > 1
    rows = []
    for device, group in zip(drawn, groups, strict=True):
        count = sum(result.devices[one].count for one in group)
        stages = _held_stages(result, held[device]) if named else ()
        name = result.devices[device].name + (f" × {count:,}" if count > 1 else "")
        name = ": ".join(filter(None, (_stages(stages), name)))
        rows.append(Row(device=device, count=count, name=name, stages=stages, alike=alike))
    return rows


def _spans_by_device(result: Result) -> list[list[int]]:
    held: list[list[int]] = [[] for _ in result.devices]
    for i, devices in enumerate(result.spans.devices):
        for device in devices:
            held[device].append(i)
    return held


def _groups(result: Result, held: Sequence[Sequence[int]], *, timed: bool) -> list[list[int]]:
    """Return the devices that have the same spans, or that compute the same in the same order, whenever it may be."""
    spans = result.spans
    last_s = max([result.step_s, *spans.end_s])
    per_s = 1e6 / last_s if last_s else 1.0
    found: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for device, mine in enumerate(held):
        if not len(spans):
            key: tuple[object, ...] = (device,)
        elif timed:
            key = tuple(
                sorted(
                    (round(spans.start_s[i] * per_s), round(spans.end_s[i] * per_s), spans.kind[i], spans.axis[i],
                     spans.stage[i], spans.microbatch[i], spans.bytes[i])
                    for i in mine
                )
            )  # fmt: skip
        else:
            key = tuple((spans.kind[i], spans.stage[i], spans.microbatch[i]) for i in mine if _computes(result, i))
        found[key].append(device)
    return list(found.values())


def _computes(result: Result, index: int) -> bool:
    return not (is_transfer(result.spans, index) or is_launch(result.spans, index))


def _slowest(result: Result, held: Sequence[Sequence[int]], groups: Sequence[Sequence[int]]) -> list[int]:
    """Return a device of each group: those of the replica whose passes end last, so that messages meet.

    Where the groups are equally large, the devices of a replica have the same place in each of them.
    """
    spans = result.spans

    def last_s(device: int) -> float:
        passes = (i for i in held[device] if spans.microbatch[i] >= 0 and _computes(result, i))
        return max((spans.end_s[i] for i in passes), default=0.0)

    if len({len(group) for group in groups}) == 1:
        slowest = max(range(len(groups[0])), key=lambda place: max(last_s(group[place]) for group in groups))
        return [group[slowest] for group in groups]
    return [max(group, key=last_s) for group in groups]


def _held_stages(result: Result, mine: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({result.spans.stage[i] for i in mine if _computes(result, i)} - {-1}))


def _stages(stages: Sequence[int]) -> str:
    """Name the stages of a rank.

    Examples
    --------
    >>> _stages([3]), _stages([0, 4]), _stages([0, 4, 8, 12, 16]), _stages([])
    ('stage 3', 'stages 0, 4', 'stages 0, 4, …, 16', '')
    """
    if len(stages) > _MOST_STAGES:
        return f"stages {stages[0]}, {stages[1]}, …, {stages[-1]}"
    return f"stage{'s' * (len(stages) > 1)} {', '.join(map(str, stages))}" if stages else ""
