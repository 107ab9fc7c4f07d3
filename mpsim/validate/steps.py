"""Predicted beside measured steps: back to back, one alone, and the peak of the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.simulation.launching import is_launch_bound
from mpsim.topology.model import Device, Topology
from mpsim.validate.steps_file import MeasuredRow, MeasuredStep
from mpsim.validate.steps_workload import is_bf16, workload_of

__all__ = ["BOUNDS", "StepComparison", "StepSummary", "summarize_steps", "validate_steps"]

BOUNDS = ("device", "launch")
_LARGE_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComparison:
    """One step of one row.

    Attributes
    ----------
    model : str
    microbatch, tensor_parallel, microbatches : int
    bound : str
        ``device`` or ``launch``: which of the two clocks the predicted steps back to back follow.
    steady_s, measured_steady_s : float
        Steps back to back.
    step_s, measured_step_s : float
        One alone, between two synchronizations.
    spread_fraction : float
        Of its repetitions, highest less lowest.
    peak_bytes, measured_peak_bytes, reserved_bytes, measured_reserved_bytes : int
        A measured one is 0 where it was not said.
    beside_bytes : int
        In `peak_bytes`: what the measuring process held beside what it measured.
    """

    model: str
    microbatch: int
    tensor_parallel: int
    microbatches: int
    bound: str
    steady_s: float
    measured_steady_s: float
    step_s: float
    measured_step_s: float
    spread_fraction: float
    peak_bytes: int
    measured_peak_bytes: int
    reserved_bytes: int
    measured_reserved_bytes: int
    beside_bytes: int

    @property
    def steady_error_fraction(self) -> float:
        """Predicted over measured less one, of steps back to back."""
        return self.steady_s / self.measured_steady_s - 1

    @property
    def step_error_fraction(self) -> float:
        """The same of one alone."""
        return self.step_s / self.measured_step_s - 1

    @property
    def peak_error_fraction(self) -> float | None:
        """The same of the peak; None of one that was not measured."""
        return self.peak_bytes / self.measured_peak_bytes - 1 if self.measured_peak_bytes else None

    @property
    def reserved_error_fraction(self) -> float | None:
        """The same of what the allocator reserved."""
        return self.reserved_bytes / self.measured_reserved_bytes - 1 if self.measured_reserved_bytes else None

    @property
    def large(self) -> bool:
        """Whether its peak was above 1 GiB."""
        return self.measured_peak_bytes > _LARGE_BYTES


def validate_steps(rows: Sequence[MeasuredRow]) -> tuple[StepComparison, ...]:
    """Predict every step of some rows, each from its own units.

    Examples
    --------
    >>> from mpsim.validate.steps_file import load_steps
    >>> found = validate_steps(load_steps()[:1])
    >>> [(one.microbatches, one.bound) for one in found]
    [(1, 'launch'), (4, 'launch')]
    """
    return tuple(_compare(row, step, _beside(row, rows)) for row in rows for step in row.steps)


def _beside(row: MeasuredRow, rows: Sequence[MeasuredRow]) -> int:
    """Return the bytes of the whole model's parameters, which a process that measured a shard of it held too."""
    if row.tensor_parallel == 1:
        return 0
    whole = [one for one in rows if one.model == row.model and one.tensor_parallel == 1]
    return sum(unit.parameters for unit in whole[0].units) * (2 if is_bf16(row) else 4) if whole else 0


def _compare(row: MeasuredRow, step: MeasuredStep, beside: int) -> StepComparison:
    work = workload_of(row)
    alone = Topology(name=row.device or "device", devices=(Device(name="device"),))
    eager, graphs = (
        simulate(work, alone, Plan(microbatches=step.microbatches, launch=launch), spans=False)
        for launch in ("eager", "graphs")
    )
    assert eager.steady_s is not None
    memory = eager.devices[0].memory
    return StepComparison(
        model=row.model,
        microbatch=row.microbatch,
        tensor_parallel=row.tensor_parallel,
        microbatches=step.microbatches,
        bound="launch" if is_launch_bound(eager, graphs) else "device",
        steady_s=eager.steady_s,
        measured_steady_s=step.back_to_back_s,
        step_s=eager.step_s,
        measured_step_s=step.wall_s,
        spread_fraction=step.spread_fraction,
        peak_bytes=memory.peak_bytes + beside,
        measured_peak_bytes=step.peak_bytes,
        reserved_bytes=memory.reserved_bytes + beside,
        measured_reserved_bytes=step.reserved_bytes,
        beside_bytes=beside,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """Errors of several comparisons without their signs, mean and worst; `name` says of what."""

    name: str
    count: int
    mean_fraction: float
    worst_fraction: float


def summarize_steps(rows: Sequence[StepComparison]) -> tuple[StepSummary, ...]:
    """Return the errors by what binds a step, and those of memory above 1 GiB.

    Examples
    --------
    >>> summarize_steps([])
    ()
    """
    large = [row for row in rows if row.large]
    errors: list[tuple[str, list[float | None]]] = []
    for bound in BOUNDS:
        own = [row for row in rows if row.bound == bound]
        errors.append((f"{bound}-bound, back to back", [row.steady_error_fraction for row in own]))
        errors.append((f"{bound}-bound, one step", [row.step_error_fraction for row in own]))
    errors.append(("peak allocated above 1 GiB", [row.peak_error_fraction for row in large]))
    errors.append(("peak reserved above 1 GiB", [row.reserved_error_fraction for row in large]))
    return tuple(_summary(name, [abs(one) for one in found if one is not None]) for name, found in errors if any(found))


def _summary(name: str, errors: Sequence[float]) -> StepSummary:
    return StepSummary(
        name=name, count=len(errors), mean_fraction=sum(errors) / len(errors), worst_fraction=max(errors)
    )
