"""Hold one prediction against one real run: predicted from a trace and from links measured before, then compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from statistics import median

from mpsim.emulate.run import Emulation, emulate
from mpsim.errors import MpsimError
from mpsim.result.model import Result
from mpsim.result.statistics import interval
from mpsim.simulation import simulate
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.validate.agreement import error_fraction, error_in_spreads
from mpsim.validate.cases import Case
from mpsim.validate.parts import differences
from mpsim.workload.model import Workload

__all__ = ["DIFFERENCES", "Comparison", "compare_case", "paths_of"]

RUNTIME = "torch-gloo"
# The parts of which a row has a column; see mpsim.validate.parts.
DIFFERENCES = ("compute", "sends", "tied", "dp", "tp", "idle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row: what was predicted, and what was measured.

    Attributes
    ----------
    model, plan, kind, wire : str
        The case: `kind` is the plan's strategy, `wire` what was asked of the links.
    batch, processes, trials : int
        Samples in a step, ranks, and steps that were run.
    fabric, compute : str
        ``namespaces`` or ``host``; ``replay`` or ``real``.
    latency_s, bandwidth_bytes_per_s : float
        What a message between two ranks was measured to cost before the run: median over pairs.
    predicted_s : float
        The step by the runtime that the run has.
    ideal_s : float
        The same by the runtime ``ideal``: what a replay says that knows nothing of the runtime.
    measured_s, measured_p5_s, measured_p95_s : float
        Median over the trials, and their 5-95 % interval.
    error_fraction, ideal_error_fraction : float
        Predicted over measured, less one.
    error_in_spreads : float or None
        The error in units of the interval's width; None where nothing varied.
    compute_fraction, sends_fraction, tied_fraction, dp_fraction, tp_fraction, idle_fraction : float
        What each part of the mean device's step adds to the error; see `mpsim.validate.parts`. `sends` are messages
        between stages, `tied` the gradients of parameters that stages share.
    wall_s : float
        How long the case took, processes started and links measured.
    """

    model: str
    plan: str
    kind: str
    wire: str
    batch: int
    processes: int
    trials: int
    fabric: str
    compute: str
    latency_s: float
    bandwidth_bytes_per_s: float
    predicted_s: float
    ideal_s: float
    measured_s: float
    measured_p5_s: float
    measured_p95_s: float
    error_fraction: float
    ideal_error_fraction: float
    error_in_spreads: float | None
    compute_fraction: float
    sends_fraction: float
    tied_fraction: float
    dp_fraction: float
    tp_fraction: float
    idle_fraction: float
    wall_s: float = 0.0

    @property
    def name(self) -> str:
        """The case in a line."""
        return f"{self.model} | {self.plan} batch={self.batch} | {self.wire}"

    @property
    def largest(self) -> str:
        """The part that adds most to the error, whichever way."""
        return max(DIFFERENCES, key=lambda part: abs(float(getattr(self, f"{part}_fraction"))))

    def with_wall(self, seconds: float) -> Comparison:
        """Return the row with how long it took."""
        return replace(self, wall_s=seconds)


def compare_case(
    case: Case,
    workload: Workload,
    *,
    fabric: str = "host",
    compute: str = "replay",
    model: str | None = None,
    ran: Emulation | None = None,
) -> Comparison:
    """Measure the links, run the plan for real, predict it from the trace and those links, and compare.

    Parameters
    ----------
    case : Case
        What is run.
    workload : Workload
        The model's trace, taken before.
    fabric, compute, model : str
        As `mpsim.emulate.run.emulate` has them.
    ran : Emulation, optional
        The case's run, if there is one already, with ``draws=False``; None: it is run now.

    Raises
    ------
    MpsimError
        A plan that cannot be run, or a process that failed; or a run of another plan, or of more or fewer trials.
    """
    if ran is not None and (ran.result.plan, ran.result.trials) != (case.plan.text, case.trials):
        raise MpsimError(
            f"{case.name}: its plan and trials are {case.plan.text}, {case.trials}, those of the run"
            f" {ran.result.plan}, {ran.result.trials}: give the case's own run, or none"
        )
    ran = ran or emulate(
        workload,
        case.wire.topology(case.plan.ranks),
        case.plan,
        trials=case.trials,
        compute=compute,
        model=model,
        fabric=fabric,
        draws=False,  # Every trial has its times at their medians, as the prediction has: no luck on either side.
        progress=False,
    )
    if ran.links is None:
        raise MpsimError(f"{case.name}: no links were measured, so that nothing can be predicted")
    # The stages that were run, whatever would balance devices of the speeds that were measured.
    plan = replace(case.plan, boundaries=ran.boundaries)
    predicted = simulate(workload, ran.links, replace(plan, runtime=RUNTIME))
    ideal = simulate(workload, ran.links, plan, spans=False)
    return _compared(case, ran, predicted, ideal, fabric, compute)


def _compared(case: Case, ran: Emulation, predicted: Result, ideal: Result, fabric: str, compute: str) -> Comparison:
    assert ran.links is not None
    steps = interval(ran.result)
    latency_s, bandwidth = paths_of(ran.links)
    parts = differences(predicted, ran.result)
    return Comparison(
        model=case.model,
        plan=case.plan.text,
        kind=case.plan.strategy,
        wire=case.wire.text,
        batch=case.plan.batch,
        processes=case.plan.ranks,
        trials=case.trials,
        fabric=fabric,
        compute=compute,
        latency_s=latency_s,
        bandwidth_bytes_per_s=bandwidth,
        predicted_s=predicted.step_s,
        ideal_s=ideal.step_s,
        measured_s=steps.median_s,
        measured_p5_s=steps.low_s,
        measured_p95_s=steps.high_s,
        error_fraction=error_fraction(predicted.step_s, steps.median_s),
        ideal_error_fraction=error_fraction(ideal.step_s, steps.median_s),
        error_in_spreads=error_in_spreads(predicted.step_s, steps.median_s, steps.low_s, steps.high_s),
        **{f"{part}_fraction": parts[part] for part in DIFFERENCES},
    )


def paths_of(topology: Topology, devices: Sequence[int] | None = None) -> tuple[float, float]:
    """Return the median latency and the median bandwidth of the paths between devices, all of them by default."""
    routes = Routes(topology)
    chosen = range(len(topology.devices)) if devices is None else devices
    paths = [routes.path(a, b) for a, b in permutations(chosen, 2)]
    return median(map(routes.latency_s, paths)), median(map(routes.bandwidth_bytes_per_s, paths))
