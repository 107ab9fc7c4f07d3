"""The space of plans that a search looks through: families of plans that compute alike, and the variants of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import prod

from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.plan.model import ALIKE_ALONE, Plan
from mpsim.plan.schedules import Schedule, as_registered, resolve_schedule, rows_for, stages_a_rank, takes_chunks
from mpsim.plan.sharding import Sharding
from mpsim.reprs import short_repr
from mpsim.workload.costs import measured_microbatches
from mpsim.workload.model import Workload
from mpsim.workload.split import Split

__all__ = ["TRIED", "Axes", "Family", "count_variants", "device_counts", "families", "variants"]

# What PyTorch's pipelining ships, so that what is found can be run; others where they are named.
TRIED = ("1f1b", "gpipe", "interleaved-1f1b", "looped-bfs", "interleaved-zb", "zb-v", "dualpipe-v")
_CHUNKS = (2, 4, 8)
_ALL = 8  # up to so many devices every number of them is tried


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What a search tries of each axis of a plan; empty: all that the workload has costs for, or the axis's own.

    Attributes
    ----------
    devices : tuple of int
        Numbers of devices; empty: see `device_counts`.
    dp, pp, tp, cp, ep : tuple of int
        Sizes of the axes; empty: all.
    microbatch_sizes : tuple of int
        Samples in a micro-batch; empty: those that were measured.
    schedules : tuple of str or callable
        Of pipelines; empty: `TRIED`.
    chunks : tuple of int
        Stages a rank, of schedules that take several; empty: 2, 4 and 8, and those that divide alike layers evenly.
    zero : tuple of int
        Stages of ZeRO; empty: 0 to 3.
    shards : tuple of int
        Replicas that shard together (hybrid sharding), of ZeRO's stages but 0; 0: all; empty: as the base plan says.
        Sizes that do not divide a plan's replicas are left out.
    recompute : tuple of str
        What is computed again; empty: nothing, attention cores where there are any, and all.
    launch : tuple of str
        How hosts launch; empty: as the base plan says.

    Examples
    --------
    >>> tried = Axes(devices=(4, 8), tp=(1,), zero=(0, 3))
    >>> tried.zero, tried.pp
    ((0, 3), ())
    """

    devices: tuple[int, ...] = ()
    dp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    tp: tuple[int, ...] = ()
    cp: tuple[int, ...] = ()
    ep: tuple[int, ...] = ()
    microbatch_sizes: tuple[int, ...] = ()
    schedules: tuple[str | Schedule, ...] = ()
    chunks: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()
    shards: tuple[int, ...] = ()
    recompute: tuple[str, ...] = ()
    launch: tuple[str, ...] = ()

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("devices", "dp", "pp", "tp", "cp", "ep", "microbatch_sizes", "chunks"):
            for value in getattr(self, name):
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise MpsimError(f"{name.replace('_', ' ')} is {value!r}, expected whole numbers, 1 or more")
        object.__setattr__(self, "schedules", tuple(map(as_registered, self.schedules)))
        for schedule in self.schedules:
            resolve_schedule(schedule)
        for zero in self.zero:
            Sharding(zero=zero)
        for shards in self.shards:
            Sharding(zero=3, shards=shards)
        for text in self.recompute:
            Sharding(recompute=text)
        for launch in self.launch:
            Plan(launch=launch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Plans that share everything but schedule, what replicas shard, what is computed again, and how hosts launch.

    Examples
    --------
    >>> Family(dp=2, pp=4, split=Split(tp=2), microbatches=8).ranks
    16
    """

    dp: int
    pp: int
    split: Split
    microbatches: int

    @property
    def ranks(self) -> int:
        """Devices that its plans take."""
        return self.dp * self.pp * self.split.cp * self.split.tp

    def plan(self, base: Plan) -> Plan:
        """Return the plan of the family that is otherwise as `base` is."""
        tp, cp, ep, sequence = self.split
        return replace(
            base, dp=self.dp, pp=self.pp, tp=tp, cp=cp, ep=ep, microbatches=self.microbatches,
            sharding=replace(base.sharding, sequence=sequence),
        )  # fmt: skip


def device_counts(n_devices: int, asked: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the numbers of devices to find the best plan for: all up to 8, powers of two, and all there are.

    Raises
    ------
    MpsimError
        More are asked for than there are.

    Examples
    --------
    >>> device_counts(24)
    (1, 2, 3, 4, 5, 6, 7, 8, 16, 24)
    >>> device_counts(64), device_counts(64, [8, 64])
    ((1, 2, 4, 8, 16, 32, 64), (8, 64))
    """
    for count in asked:
        if count > n_devices:
            raise MpsimError(f"{count} devices asked for, the topology has {n_devices}: ask for 1 to {n_devices}")
    if asked:
        return tuple(sorted(set(asked)))
    powers = {2**i for i in range(n_devices.bit_length())}
    few = set(range(1, min(n_devices, _ALL) + 1)) if n_devices <= 4 * _ALL else set()
    return tuple(sorted({n for n in powers | few if n <= n_devices} | {n_devices}))


def families(workload: Workload, n_devices: int, batch: int, axes: Axes) -> tuple[list[Family], Counter[str]]:
    """Return the families of plans over so many of the devices, and what makes others impossible.

    Parameters
    ----------
    workload : Workload
        Whose splits and micro-batch sizes count.
    n_devices, batch : int
        Devices there are; samples in one step over all replicas.
    axes : Axes
        What is tried.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("two", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> found, left = families(work, 2, 4, Axes())
    >>> [(one.dp, one.pp, one.microbatches) for one in found], dict(left)
    ([(1, 1, 4), (2, 1, 2), (1, 2, 4)], {})
    """
    found, left = [], Counter[str]()
    for split in _splits(workload, axes):
        sizes = measured_microbatches(workload, split)
        tried = [size for size in sizes if not axes.microbatch_sizes or size in axes.microbatch_sizes]
        for count in device_counts(n_devices, axes.devices):
            for dp, pp in _shapes(count, split, len(workload.layers), axes):
                if (dp * split.cp) % split.ep:
                    continue
                counts = [batch // (dp * size) for size in tried if batch % (dp * size) == 0]
                if not counts:
                    left[f"a batch of {batch} over dp={dp} is no whole number of micro-batches of the sizes measured"
                         f" ({', '.join(map(str, tried or sizes))})"] += 1  # fmt: skip
                found += [Family(dp=dp, pp=pp, split=split, microbatches=m) for m in counts]
    return sorted(found, key=lambda one: one.ranks), left


def _splits(workload: Workload, axes: Axes) -> list[Split]:
    """Return the splits at which every layer has costs, and that the axes allow."""
    traced = set.intersection(*({cost.split for cost in layer.costs} for layer in workload.layers))
    held = set.intersection(*({shard.split for shard in layer.shards} for layer in workload.layers))
    found = [
        split for split in sorted(traced & held if held else traced)
        if all(not allowed or size in allowed
               for size, allowed in ((split.tp, axes.tp), (split.cp, axes.cp), (split.ep, axes.ep)))
    ]  # fmt: skip
    if not found:
        have = "; ".join(split.text for split in sorted(traced))
        raise MpsimError(f"workload {workload.name!r} was measured at {have}: none of the splits asked for is there")
    return found


def _shapes(count: int, split: Split, n_layers: int, axes: Axes) -> Iterator[tuple[int, int]]:
    """Yield (dp, pp) with which a split takes so many devices."""
    each = split.tp * split.cp
    if count % each:
        return
    for pp in range(1, min(count // each, n_layers) + 1):
        dp, rest = divmod(count // each, pp)
        if not rest and (not axes.pp or pp in axes.pp) and (not axes.dp or dp in axes.dp):
            yield dp, pp


def variants(workload: Workload, family: Family, base: Plan, axes: Axes) -> list[Plan]:
    """Return the plans of a family: every schedule, stage of ZeRO, recomputation and way to launch that differ.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> work = Workload.chain("two", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    >>> family = Family(dp=1, pp=2, split=Split(), microbatches=4)
    >>> [plan.schedule for plan in variants(work, family, Plan(batch=4), Axes(recompute=("",)))]
    ['1f1b', 'gpipe']
    """
    plan = family.plan(base)
    found = []
    for (schedule, chunks), (zero, shards), what, launch in product(*_choices(workload, family, base, axes)):
        sharding = replace(plan.sharding.at(zero), shards=shards, recompute=what)
        found.append(replace(plan, schedule=schedule, chunks=chunks, sharding=sharding, launch=launch))
    return found


def count_variants(workload: Workload, family: Family, base: Plan, axes: Axes) -> int:
    """Return how many plans `variants` would."""
    return prod(map(len, _choices(workload, family, base, axes)))


def _choices(
    workload: Workload, family: Family, base: Plan, axes: Axes
) -> tuple[Sequence[tuple[str | Schedule, int]], Sequence[tuple[int, int]], Sequence[str], Sequence[str]]:
    replicas = family.dp * family.split.cp
    sharded = [(zero, shards) for zero in axes.zero or (0, 1, 2, 3) for shards in _shards(zero, replicas, base, axes)]
    zeros = (sharded if family.split.ep == 1 else [one for one in sharded if not one[1]]) if replicas > 1 else [(0, 0)]
    again = axes.recompute or ("", *(("selective",) if _has_cores(workload, family) else ()), "full")
    return _schedules(workload, family, axes), zeros, again, axes.launch or (base.launch,)


def _shards(zero: int, replicas: int, base: Plan, axes: Axes) -> Sequence[int]:
    """Return how many replicas may shard together; 0: all."""
    if not zero:
        return (0,)
    return [n for n in axes.shards or (base.sharding.shards,) if not n or (n < replicas and replicas % n == 0)]


def _has_cores(workload: Workload, family: Family) -> bool:
    costs = (cost for layer in workload.layers for cost in layer.costs if cost.split == family.split)
    return any(cost.attention is not None for cost in costs)


def _schedules(workload: Workload, family: Family, axes: Axes) -> list[tuple[str | Schedule, int]]:
    """Return the schedules that differ from one another in such a family, each with its stages a rank; 0: its own."""
    if family.pp == 1:
        return [("1f1b", 0)]
    found: list[tuple[str | Schedule, int]] = []
    for schedule in axes.schedules or TRIED:
        if family.microbatches == 1 and schedule in ALIKE_ALONE:
            found.append(("1f1b", 0))
        elif _chooses(schedule):
            found += [(schedule, chunks) for chunks in _chunks(workload, family.pp, axes)]
        elif family.pp * _unasked(schedule) <= len(workload.layers):
            found.append((schedule, 0))
    return list(dict.fromkeys(found))


@cache
def _chooses(schedule: str | Schedule) -> bool:
    """Return whether a schedule runs with other numbers of stages a rank than its own."""
    if not takes_chunks(resolve_schedule(schedule)):
        return False
    try:
        return len({one.stage for row in rows_for(schedule, 2, 4, 3) for one in row}) == 6
    except MpsimError:
        return False


@cache
def _unasked(schedule: str | Schedule) -> int:
    return stages_a_rank(schedule)


def _chunks(workload: Workload, pp: int, axes: Axes) -> list[int]:
    """Return how many stages a rank are tried: few enough that each has a layer."""
    most = len(workload.layers) // pp
    if axes.chunks:
        return [chunks for chunks in axes.chunks if chunks <= most]
    alike = Counter(layer.costs[0].samples for layer in workload.layers).most_common(1)[0][1]
    even = [chunks for chunks in range(2, most + 1) if alike % (pp * chunks) == 0]
    return sorted({*(chunks for chunks in _CHUNKS if chunks <= most), *even})
