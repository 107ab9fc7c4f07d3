"""The plan: which rank does which part of the step, in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsim import documents
from mpsim.above import above
from mpsim.calls import checked
from mpsim.documents import Document, Provenance
from mpsim.errors import MpsimError, known_name, unknown
from mpsim.plan.automatic import Fitted
from mpsim.plan.grid import Grid, View
from mpsim.plan.operations import Operation, Rows
from mpsim.plan.runtimes import RUNTIMES, resolve_runtime
from mpsim.plan.schedule_file import given_schedule
from mpsim.plan.schedules import Schedule, as_registered, resolve_schedule, rows_for
from mpsim.plan.sharding import Sharding
from mpsim.reprs import short_repr
from mpsim.units import format_bytes, whole
from mpsim.workload.split import Split

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ALIKE_ALONE", "LAUNCHES", "Plan", "check_size", "load_plan", "save_plan"]

MIB = 2**20
LAUNCHES = ("eager", "graphs")
# With one micro-batch these are one schedule.
ALIKE_ALONE = ("naive", "gpipe", "1f1b", "gpipe-accumulated", "eager-1f1b")
_UNSAID = Provenance()
_VERSION = 4
# The second version only adds how hosts launch, the third the stages on each rank, and schedules as rows, the fourth
# ranks that share sequences and experts, more of sharding, and recomputation.
_UPGRADES = {1: dict, 2: dict, 3: dict}
# Each is several tasks on every stage: beyond this a replay takes the memory of a large machine.
MOST_MICROBATCHES = 1_000_000
MOST_RANKS = 1_000_000  # More than any topology has devices.


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Document):
    """A split of a workload over ``dp × pp × cp × tp`` ranks.

    Attributes
    ----------
    dp, pp, tp : int
        Replicas of the data, pipeline stages, and ranks that share each layer. Rank ``(d, p, c, t)`` is entry
        ``arange(dp * pp * cp * tp).reshape(dp, pp, cp, tp)[d, p, c, t]`` of `devices`.
    cp : int
        Ranks that share each sequence (context parallelism); to gradients and their sharding they are as replicas.
    ep : int
        Ranks that share the experts of a layer: so many of ``dp × cp`` that follow one another. Gradients of experts
        are reduced among the ``dp × cp / ep`` that hold the same ones.
    batch : int
        Samples in one step over all replicas; 0: as many as `microbatches` of the workload's reference size.
    microbatches : int
        Parts into which a replica cuts its share of the batch.
    schedule : str, callable or rows
        A name of ``SCHEDULES``, a function ``(ranks, microbatches[, chunks]) -> rows``, a CSV file as
        ``torch.distributed.pipelining`` writes it, or the rows themselves, as lists of `Operation` or as text.
    chunks : int
        Stages on each pipeline rank, where the schedule has several (virtual stages); 0: as many as it has unasked.
    sharding : Sharding
        What replicas share among them instead of each holding all of it (ZeRO, FSDP), and what is computed again.
    boundaries : tuple of int or None
        The first layer of each stage but the first; None: `mpsim.simulate` cuts where the step is the shortest.
    bucket_bytes, first_bucket_bytes : int
        Gradients are all-reduced in buckets that are closed once they hold this much, the first one sooner, as
        PyTorch's DistributedDataParallel does (https://docs.pytorch.org/docs/stable/notes/ddp.html).
    algorithm : str
        Of the collectives.
    devices : tuple of int
        Which device of the topology stands at each rank; empty: in the topology's order.
    runtime : str
        How what executes the plan treats its messages: a name of ``RUNTIMES``.
    launch : str
        How a host launches what its device runs: ``eager``, one kernel after another, or ``graphs``, all at once and
        for nothing (CUDA graphs, a compiled step). ``""``: eager, where the trace says what that takes.

    Examples
    --------
    >>> Plan(dp=2, pp=4, microbatches=8).text
    'dp=2 pp=4 micro-batches=8 1f1b'
    """

    _file = "plan.model:plan"
    _reads = "lowering.plan_words:parse_plan"
    _written = "a Plan, its file or text such as 'pp=4 microbatches=8 1f1b'"
    _found = "mpsim.best(mpsim.Study(workload, topology), batch=…).plan is the fastest"

    dp: int = 1
    pp: int = 1
    tp: int = 1
    batch: int = 0
    microbatches: int = 1
    schedule: str | Schedule | Rows = "1f1b"
    boundaries: tuple[int, ...] | None = None
    bucket_bytes: int = 25 * MIB
    first_bucket_bytes: int = MIB
    algorithm: str = "ring"
    devices: tuple[int, ...] = ()
    runtime: str = "ideal"
    launch: str = ""
    chunks: int = 0
    sharding: Sharding = Sharding()
    cp: int = 1
    ep: int = 1

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("dp", "pp", "tp", "cp", "ep", "microbatches", "bucket_bytes", "first_bucket_bytes"):
            object.__setattr__(self, name, whole(getattr(self, name), f"plan: {name}", 1))
        object.__setattr__(self, "chunks", whole(self.chunks, "plan: chunks"))
        if not isinstance(self.batch, bool) and isinstance(self.batch, int) and self.batch < 0:
            raise MpsimError(f"plan: batch is {self.batch}, expected 1 or more samples")
        object.__setattr__(self, "batch", whole(self.batch, "plan: batch"))
        self._check_types()
        object.__setattr__(self, "schedule", given_schedule(as_registered(self.schedule)))
        object.__setattr__(self, "runtime", known_name(self.runtime, RUNTIMES))
        object.__setattr__(self, "launch", known_name(self.launch, LAUNCHES))
        resolve_schedule(self.schedule)
        resolve_runtime(self.runtime)
        if self.launch and self.launch not in LAUNCHES:
            raise unknown("way of launching", self.launch, LAUNCHES)
        self._check_axes()
        parts = self.dp * self.microbatches
        if self.batch % parts:
            raise MpsimError(
                f"batch of {self.batch} does not divide into dp({self.dp}) × micro-batches({self.microbatches})"
                f" = {parts} equal parts: change one of them"
            )
        stages = self.pp * max(self.chunks, 1)
        alone = self.pp == 1 and not self.chunks
        if self.boundaries and (alone or (len(self.boundaries) + 1) % stages):
            raise MpsimError(
                f"plan has {len(self.boundaries)} stage boundaries, pp={self.pp} needs {stages - 1}:"
                " name the first layer of each stage but the first"
            )
        if self.devices and len(self.devices) != self.ranks:
            raise MpsimError(f"plan places {len(self.devices)} devices, {self._product()}: name one for each rank")
        if len(set(self.devices)) < len(self.devices):
            raise MpsimError(f"plan places one device at two ranks: {list(self.devices)}; name each once")

    def _check_types(self) -> None:
        """Refuse what is of another type than it is said to be, before it fails further in."""
        for name in ("algorithm", "runtime", "launch"):
            if not isinstance(getattr(self, name), str):
                raise MpsimError(f"plan: {name} is {getattr(self, name)!r}, expected a name")
        if not isinstance(self.sharding, Sharding):
            raise MpsimError(f"plan: sharding is {self.sharding!r}, expected a Sharding")
        for name in ("boundaries", "devices"):
            given = getattr(self, name)
            if given is not None or name == "devices":
                if isinstance(given, str) or not isinstance(given, Iterable):
                    raise MpsimError(f"plan: {name} is {given!r}, expected whole numbers")
                object.__setattr__(self, name, tuple(whole(one, f"plan: one of {name}", None) for one in given))

    def _check_axes(self) -> None:
        """Refuse what is shared among ranks that are not there, or do not divide into groups of that size."""
        if self.ranks > MOST_RANKS:
            raise MpsimError(f"plan: {self._product()}, more than {MOST_RANKS:,} are too many: use fewer")
        sharding, data = self.sharding, f"dp({self.dp}) × cp({self.cp}) = {self.replicas}"
        if sharding.zero and self.replicas == 1:
            raise MpsimError(f"plan: {sharding.text} shards over replicas, dp is 1: give it 2 or more")
        if sharding.sequence and self.tp == 1:
            raise MpsimError("plan: sequence is shared by the ranks that share weights, tp is 1: give it 2 or more")
        for name, size in (("ep", self.ep), ("shards", sharding.shards)):
            if size and self.replicas % size:
                fits = [n for n in range(1, self.replicas + 1) if self.replicas % n == 0]
                nearest = min(fits, key=lambda n: abs(n - size))
                raise MpsimError(f"plan: {name}={size} does not divide {data}: the nearest that does is {nearest}")
        if sharding.shards and self.ep > 1:
            raise MpsimError(
                f"plan: shards={sharding.shards} with ep={self.ep}: those with the same experts shard them, drop one"
            )

    @property
    def split(self) -> Split:
        """Among whom each layer is shared."""
        return Split(self.tp, self.cp, self.ep, self.sharding.sequence)

    @property
    def replicas(self) -> int:
        """Ranks that hold the same layers but for experts, and reduce their gradients among them: dp × cp."""
        return self.dp * self.cp

    @property
    def grid(self) -> Grid:
        """Its ranks by axis.

        Other views of dp × cp are ``ep`` and ``edp``, those with the same experts; ``shard``, those that shard
        together, and ``replica``, those with the same shard.
        """
        shards = self.sharding.shards or self.replicas
        data = ("dp", "cp")
        return Grid(
            (("dp", self.dp), ("pp", self.pp), ("cp", self.cp), ("tp", self.tp)),
            (
                View("ep", data, self.ep),
                View("edp", data, self.ep, across=True),
                View("shard", data, shards),
                View("replica", data, shards, across=True),
            ),
        )

    @property
    def ranks(self) -> int:
        """Devices that the plan needs."""
        return self.dp * self.pp * self.cp * self.tp

    def _product(self) -> str:
        sizes = {"dp": self.dp, "pp": self.pp, "cp": self.cp, "tp": self.tp}
        shown = " × ".join(f"{name}({size})" for name, size in sizes.items() if name != "cp" or size > 1)
        return f"plan needs {shown} = {self.ranks} devices"

    def place(self, n_devices: int) -> tuple[int, ...]:
        """Return the device of each rank on a topology of `n_devices`.

        Raises
        ------
        MpsimError
            There are not that many.
        """
        if self.ranks > n_devices:
            raise MpsimError(f"{self._product()}, topology has {n_devices}: lower dp, pp or tp, or add devices")
        placed = self.devices or tuple(range(self.ranks))
        for device in placed:
            if not 0 <= device < n_devices:
                raise MpsimError(f"plan places a rank on device {device}, topology has 0 to {n_devices - 1}")
        return placed

    def rows(self) -> tuple[tuple[Operation, ...], ...]:
        """Return the rows of its schedule, checked: what each pipeline rank runs.

        Raises
        ------
        MpsimError
            The schedule does not take so many chunks, or its rows are no schedule.

        Examples
        --------
        >>> [len(row) for row in Plan(pp=2, microbatches=3).rows()]
        [6, 6]
        """
        return tuple(map(tuple, rows_for(self.schedule, self.pp, self.microbatches, self.chunks or None)))

    @property
    def schedule_name(self) -> str:
        """The schedule's registered name, or that of its function."""
        return self.schedule if isinstance(self.schedule, str) else getattr(self.schedule, "__name__", "custom")

    @property
    def strategy(self) -> str:
        """What the field calls such a split: ``single``, ``naive``, ``gpipe``, ``tensor``, ``data``, ``hybrid``..."""
        used = [axis for axis in ("dp", "pp", "tp", "cp") if getattr(self, axis) > 1]
        if not used:
            return "single"
        if len(used) > 1:
            return "hybrid"
        if self.pp == 1:
            return {"dp": "data", "tp": "tensor", "cp": "context"}[used[0]]
        return "naive" if self._alone else self.schedule_name

    @property
    def _alone(self) -> bool:
        """Whether its one micro-batch makes its schedule the naive one."""
        return self.microbatches == 1 and self.schedule in ALIKE_ALONE

    @property
    def text(self) -> str:
        """The plan in one line; what is at its default goes unsaid, as is what is 1, but for ``dp=1`` of one device."""
        axes = {name: getattr(self, name) for name in ("dp", "pp", "tp", "cp", "ep")}
        words = [f"{name}={size}" for name, size in axes.items() if size > 1] or ["dp=1"]
        words += [f"micro-batches={self.microbatches}"] if self.microbatches > 1 else []
        if self.pp > 1:
            words.append("naive" if self._alone else self.schedule_name)
        if self.chunks:
            words.append(f"chunks={self.chunks}")
        if self.boundaries is not None:
            words.append(f"stages={','.join(map(str, self.boundaries))}")
        if self.devices:
            words.append(f"place={','.join(map(str, self.devices))}")
        if self.sharding.text:
            words.append(self.sharding.text)
        if self.replicas > 1 and self.sharding.zero < 3 and self.bucket_bytes != 25 * MIB:
            words.append(f"bucket={format_bytes(self.bucket_bytes)}")
        if self.algorithm != "ring":
            words.append(self.algorithm)
        if self.launch == "graphs":
            words.append("graphs")
        return " ".join(words)

    def plot(self, **options: Any) -> Any:
        """Return a figure of what each pipeline rank runs when, by unit times.

        Parameters
        ----------
        **options
            Those of `mpsim.plotting.schedule`, such as ``ax=``.

        Raises
        ------
        MpsimError
            Its schedule gives no rows, or too many to be drawn; matplotlib is not installed.
        """
        return above("cards.pictures").plan_figure(self, **options)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each rank: its device, in the topology's order, and its place on each axis.

        Examples
        --------
        >>> Plan(dp=2, pp=2).to_frame().values.tolist()
        [[0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0], [2, 2, 1, 0, 0, 0], [3, 3, 1, 1, 0, 0]]
        """
        frame: pd.DataFrame = above("cards.tables").plan_frame(self)
        return frame

    def _repr_html_(self) -> str:
        return str(above("cards.plan").card(self))


def check_size(plan: Plan) -> None:
    """Refuse a plan whose program no machine holds; as a value, and as a row of a sweep, it may be.

    Raises
    ------
    MpsimError
        Too many micro-batches.
    """
    if plan.microbatches > MOST_MICROBATCHES:
        raise MpsimError(
            f"plan: microbatches is {plan.microbatches}, more than {MOST_MICROBATCHES:,} are too many: use fewer"
        )


@checked
def save_plan(path: str | Path | Plan, plan: Plan | str | Path, provenance: Provenance = _UNSAID) -> None:
    """Write a plan as ``mpsim.plan/4``; the plan may come first.

    A schedule that has no registered name is saved as its rows.

    Raises
    ------
    MpsimError
        Its schedule does not give rows for it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_plan(f"{folder}/plan.json", Plan(pp=2, microbatches=4))
    ...     load_plan(f"{folder}/plan.json").microbatches
    4
    """
    where, held = documents.in_order(path, plan, Plan)
    if isinstance(held.schedule, Fitted):
        raise MpsimError(f"plan's schedule {held.schedule_name!r} is made for its stages: name it as it is registered")
    if not isinstance(held.schedule, str):
        held = replace(held, schedule=[list(row) for row in held.rows()])
    documents.write(where, "plan", _VERSION, _PlanFile(plan=held, provenance=provenance))


@checked
def load_plan(path: str | Path) -> Plan:
    """Read a plan of any version ever written.

    Raises
    ------
    MpsimError
        No such file, a truncated or edited one, another schema or a newer version.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_plan(f"{folder}/plan.json", Plan(dp=2))
    ...     load_plan(f"{folder}/plan.json") == Plan(dp=2)
    True
    """
    document: _PlanFile = documents.read(path, "plan", _VERSION, _PlanFile, _UPGRADES)
    return document.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanFile:
    plan: Plan
    provenance: Provenance = Provenance()
