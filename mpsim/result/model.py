"""The result: what happened when, and the numbers that follow; the same from a replay and from a real run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mpsim.above import above
from mpsim.calls import checked
from mpsim.documents import Document, Provenance
from mpsim.reprs import short_repr
from mpsim.result.plan_text import PlanText
from mpsim.scaling import Scaling

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["HOLDERS", "Count", "DeviceUse", "MemoryUse", "Origin", "Result", "Spans", "Timeline"]


HOLDERS = (
    "parameters", "master", "gradients", "optimizer", "activations", "recomputation", "transients", "gathered",
    "buffers", "workspace",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """What ran when, as parallel columns of equal length, ordered by task.

    Attributes
    ----------
    name : tuple of str
        Such as ``"0F3"`` (stage 0, forward, micro-batch 3).
    kind : tuple of str
        ``forward``, ``recompute``, ``backward``, ``backward_input``, ``backward_weight``, ``optimizer``, ``compute``,
        of a host ``launch`` or, of transfers, ``send``, ``all_reduce``, ...
    axis : tuple of str
        Of a transfer ``dp``, ``pp``, ``tp`` or ``""``; of a computation ``""``.
    devices : tuple of tuple of int
        Indices into the result's devices: one for a computation, all that take part for a transfer.
    stage, microbatch : tuple of int
        -1 where it has no meaning.
    bytes : tuple of int
        Payload of a transfer (a message's size; the whole tensor of a collective); 0 for a computation.
    start_s, end_s : tuple of float
        Seconds from the start of the step.
    """

    name: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    axis: tuple[str, ...] = ()
    devices: tuple[tuple[int, ...], ...] = ()
    stage: tuple[int, ...] = ()
    microbatch: tuple[int, ...] = ()
    bytes: tuple[int, ...] = ()
    start_s: tuple[float, ...] = ()
    end_s: tuple[float, ...] = ()

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What one holder holds on a device over time, changes only: from ``time_s[i]`` on it is ``bytes[i]``.

    Examples
    --------
    >>> Timeline(holder="activations", time_s=(0.0, 2.0), bytes=(0, 64)).held([0.0, 1.0, 2.0, 3.0])
    [0, 0, 64, 64]
    """

    holder: str
    time_s: tuple[float, ...]
    bytes: tuple[int, ...]

    __repr__ = short_repr

    def held(self, times: Iterable[float]) -> list[int]:
        """Return the bytes held from each of some times on; nothing before the first change."""
        return [self.bytes[i - 1] if i else 0 for i in (bisect_right(self.time_s, time) for time in times)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes on one device by holder, at the moment of its peak, and over time: in all, and by holder.

    ``timeline_s[i]`` is when the total becomes ``timeline_bytes[i]``; the first entry is at 0. `by_holder` has every
    holder that holds anything, in the order of `HOLDERS`; empty where that is not known. `reserved_bytes` is what a
    caching allocator takes from the device for all of it, 0 where there is none.
    """

    parameters_bytes: int = 0
    master_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    activations_bytes: int = 0
    transients_bytes: int = 0
    gathered_bytes: int = 0
    recomputation_bytes: int = 0
    buffers_bytes: int = 0
    workspace_bytes: int = 0
    reserved_bytes: int = 0
    timeline_s: tuple[float, ...] = ()
    timeline_bytes: tuple[int, ...] = ()
    by_holder: tuple[Timeline, ...] = ()

    __repr__ = short_repr

    @property
    def peak_bytes(self) -> int:
        """The most that the device ever holds."""
        return sum(getattr(self, f"{holder}_bytes") for holder in HOLDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """Where one device's step went.

    ``compute_s + exposed_communication_s + exposed_launch_s + idle_s == step_s``.

    Attributes
    ----------
    name, type : str
        The device in the topology.
    compute_s : float
        At least one computation runs.
    exposed_communication_s : float
        None runs, and a transfer that this device takes part in is under way.
    exposed_launch_s : float
        Neither, and what comes next waits for nothing but its launch; 0 where launching costs nothing.
    idle_s : float
        The rest.
    bubble_s : float or None
        What of the step on an ideal network the device neither computes nor waits for a launch; transfers that fill it
        on real links can make it more than `idle_s`. None of a real run, which has no such network to be repeated on.
    memory : MemoryUse
        At its peak.
    capacity_bytes : int
        What the device has; 0 if unknown.
    count : int
        Devices that do the same at the same moments, of which this is the first and stands for all.
    """

    name: str
    type: str = ""
    compute_s: float
    exposed_communication_s: float
    exposed_launch_s: float = 0.0
    idle_s: float
    bubble_s: float | None = 0.0
    memory: MemoryUse = MemoryUse()
    capacity_bytes: int = 0
    count: int = 1

    __repr__ = short_repr

    @property
    def label(self) -> str:
        """Its name, and how many it stands for: ``d0``, or ``d0 × 64``."""
        return self.name if self.count == 1 else f"{self.name} × {self.count:,}"

    @property
    def fits(self) -> bool | None:
        """Whether its peak is within its capacity; None if the capacity is unknown."""
        return self.memory.peak_bytes <= self.capacity_bytes if self.capacity_bytes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Bytes of one kind of traffic on one axis over the whole step: payload, and summed over links.

    Attributes
    ----------
    algorithm : str
        Of the collectives, where ``auto`` chose it.
    beyond : int
        So many of the transfers took what costs measured for other sizes or numbers of ranks say.
    unmeasured : str
        What their times are by, where nothing was measured of their links: what was borrowed from which.
    """

    kind: str
    axis: str
    transfers: int
    payload_bytes: int
    link_bytes: int
    algorithm: str = ""
    beyond: int = 0
    unmeasured: str = ""


class Origin(NamedTuple):
    """What a result was replayed from; it is of rooms that lie beside the result's, or above it.

    Attributes
    ----------
    workload, topology, plan
        As of `mpsim.simulate`.
    options : mapping of str to object
        Its arguments `by_type`, `unchecked` and `host_speed`.
    """

    workload: Any
    topology: Any
    plan: Any
    options: Mapping[str, Any]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Document):
    """One plan of one workload on one topology.

    Attributes
    ----------
    workload, topology, plan, runtime : str
        What was replayed or run; `plan` in one line.
    launch : str
        ``eager`` where hosts launch what devices run, ``graphs`` where that costs nothing, ``""`` where it is part of
        the times, as with one clock.
    measured_on : str
        The device that the workload's times come from.
    made_by : str
        ``simulate`` or ``emulate``.
    global_batch : int
        Samples in one step; 0 for a program without samples.
    tokens_per_sample, flops_per_sample : int
        What a sample is; 0 where samples are not sequences, or the workload does not say what it computes. FLOPs are
        the model's, forward and backward: what is computed again does not count.
    peak_flops_per_s : float
        What each device could do at the workload's precision; 0 if unknown.
    step_s : float
        The step of the middle trial (of an even number, the lower one); every other number and the spans are of that
        same trial.
    trial_step_s : tuple of float
        One for each trial replayed; a single one where nothing is random.
    trials : int
        How many trials were asked for.
    deterministic : bool
        Nothing was random, and one replay stands for all trials.
    steady_s : float or None
        What a step takes where steps follow one another and hosts run ahead; None where that is not known.
    free_step_s : float or None
        The same trial on an ideal network (infinite bandwidth, no latency); None of a real run, which has none.
    baseline : str
        What `speedup` compares with.
    baseline_step_s : float
        Its step on the same global batch; 0 if there is none.
    fidelity : str
        The weakest that was used.
    caveats : tuple of str
        What may make it wrong, in a phrase each, the worst first: costs that are doubtful, scaled, analytical or of
        links that nobody measured, and hosts that hold devices up.
    notes : tuple of str
        What the traces have to say in words.
    scalings : tuple of Scaling
        By what costs were scaled that stand for another device than they were measured on.
    devices : tuple of DeviceUse
        Those of the plan, in the topology's order.
    traffic : tuple of Count
        By kind and axis.
    spans : Spans
        What ran when.
    origin : Origin or None
        What it was replayed from, for `explain`: no part of its value. None of a real run, or of a result from a file.

    Examples
    --------
    >>> import mpsim
    >>> layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
    >>> topology = mpsim.parse_topology("chain:2,link=1GB/s@0")
    >>> result = mpsim.simulate(mpsim.Workload.chain("two", layers), topology, mpsim.Plan(pp=2))
    >>> result.step_s, result.speedup, [device.compute_s for device in result.devices]
    (6.0, 1.0, [3.0, 3.0])
    """

    _file = "result.file:result"
    _reads = "result.file:load_result"
    _written = "a Result or the path of its file"

    workload: str
    measured_on: str = ""
    topology: str
    plan: str
    runtime: str = "ideal"
    launch: str = ""
    made_by: str = "simulate"
    global_batch: int = 0
    tokens_per_sample: int = 0
    flops_per_sample: int = 0
    peak_flops_per_s: float = 0.0
    step_s: float
    trial_step_s: tuple[float, ...]
    trials: int = 1
    deterministic: bool = False
    steady_s: float | None = None
    free_step_s: float | None
    baseline: str = ""
    baseline_step_s: float = 0.0
    fidelity: str = "given"
    caveats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    scalings: tuple[Scaling, ...] = ()
    devices: tuple[DeviceUse, ...] = ()
    traffic: tuple[Count, ...] = ()
    spans: Spans = Spans()
    provenance: Provenance = Provenance()
    origin: Origin | None = field(default=None, compare=False, repr=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if isinstance(self.plan, str):
            object.__setattr__(self, "plan", PlanText(self.plan, self.global_batch, self.runtime))

    @property
    def throughput_samples_per_s(self) -> float:
        """Samples a second; 0 where the step has no samples or takes no time."""
        return self.global_batch / self.step_s if self.step_s else 0.0

    @property
    def throughput_tokens_per_s(self) -> float | None:
        """Tokens a second; None where samples are not sequences."""
        return self.throughput_samples_per_s * self.tokens_per_sample if self.tokens_per_sample else None

    @property
    def device_flops_per_s(self) -> float | None:
        """The model's FLOP/s on each device; None where its FLOPs are not known."""
        flops = self.throughput_samples_per_s * self.flops_per_sample
        return flops / self.n_devices if flops and self.n_devices else None

    @property
    def mfu_fraction(self) -> float | None:
        """What of a device's peak that is (model FLOP/s utilization, https://arxiv.org/abs/2204.02311)."""
        rate = self.device_flops_per_s
        return rate / self.peak_flops_per_s if rate and self.peak_flops_per_s else None

    @property
    def speedup(self) -> float | None:
        """Baseline step over this step, on the same global batch; None without a baseline."""
        return self.baseline_step_s / self.step_s if self.baseline_step_s and self.step_s else None

    @property
    def communication_overhead_s(self) -> float | None:
        """Step minus the step on an ideal network; None where that is not known."""
        return None if self.free_step_s is None else self.step_s - self.free_step_s

    @property
    def communication_overhead_fraction(self) -> float | None:
        """The overhead as a part of the step, 0 to 1; None where it is not known."""
        overhead_s = self.communication_overhead_s
        if overhead_s is None:
            return None
        return overhead_s / self.step_s if self.step_s else 0.0

    @property
    def n_devices(self) -> int:
        """How many devices the plan takes, those included that others stand for."""
        return sum(device.count for device in self.devices)

    @property
    def peak_memory_bytes(self) -> tuple[int, ...]:
        """Peak of each device."""
        return tuple(device.memory.peak_bytes for device in self.devices)

    @property
    def fits(self) -> bool | None:
        """Whether every device's peak is within its capacity; None if a capacity that matters is unknown."""
        verdicts = [device.fits for device in self.devices]
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True

    def plot(self, kind: str = "", **options: Any) -> Any:
        """Return a figure: what ran when or, without spans, where the step goes.

        Parameters
        ----------
        kind : str
            Another picture: ``breakdown``, ``memory``, ``memory_over_time``, ``memory_by_holder``, ``cdf``, ``speedup``
            or ``timeline``, the functions of `mpsim.plotting`.
        **options
            Of that function, such as ``ax=``.

        Raises
        ------
        MpsimError
            There is no such picture, the result lacks what it needs, or matplotlib is not installed.
        """
        return above("cards.pictures").result_figure(self, kind, **options)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each device: where its step went, what it holds at its peak.

        Examples
        --------
        >>> use = DeviceUse(name="gpu0", compute_s=1.5, exposed_communication_s=0.25, idle_s=0.25)
        >>> result = Result(workload="mlp", topology="one", plan="dp=1", step_s=2.0, trial_step_s=(2.0,),
        ...                 free_step_s=1.5, devices=(use,))
        >>> result.to_frame()[["device", "compute_fraction"]].values.tolist()
        [['gpu0', 0.75]]
        """
        frame: pd.DataFrame = above("cards.tables").result_frame(self)
        return frame

    def explain(self, **options: Any) -> Any:
        """Return an `Explanation` of where the step goes, every time at its median.

        Parameters
        ----------
        **options
            Those of `mpsim.explain`, such as ``what_ifs=False``.

        Raises
        ------
        MpsimError
            The result is of a real run or from a file: it has no workload to replay.
        """
        return above("cards.explained").explain_result(self, **options)

    def report(self, path: str | Path, **options: Any) -> None:
        """Write the step as one page that needs no network: see docs/report.md.

        Parameters
        ----------
        path : path
            The page, ``.html``.
        **options
            ``what_ifs=False`` leaves out what is simulated with one thing changed, `real` has results of real
            runs to lay beside it, `progress` is called with how many what-ifs are done of how many.

        Raises
        ------
        MpsimError
            The file cannot be written there.
        """
        above("report.values").report_result(self, path, **options)

    def _repr_html_(self) -> str:
        return str(above("cards.result").card(self))
