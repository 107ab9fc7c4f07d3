"""One row of a sweep, wherever it is computed: in this process, in another, or on a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpsim.collectives.algorithms import ALGORITHMS
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Trials
from mpsim.plan.model import Plan
from mpsim.plan.runtimes import RUNTIMES
from mpsim.plan.schedules import SCHEDULES
from mpsim.result.frames import summary_row
from mpsim.result.model import Origin, Result
from mpsim.simulation.cutting import Played
from mpsim.simulation.run import simulate_played
from mpsim.sweeps.choosing import best_played
from mpsim.sweeps.grid import Candidate
from mpsim.sweeps.model import COLUMNS, Row
from mpsim.sweeps.question import code_digest
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload
from mpsim.workload.tokens import tokens_per_sample

__all__ = ["Job", "coordinates", "origin_of", "packed", "row_here", "row_there"]

_REGISTRIES: tuple[dict[Any, Any], ...] = (SCHEDULES, ALGORITHMS, RUNTIMES)
_KNOWN = tuple(dict(registry) for registry in _REGISTRIES)


_TOLD_APART_BY = (
    "workload", "topology", "n_devices", "dp", "pp", "tp", "global_batch", "microbatches", "schedule", "runtime",
    "algorithm",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all plans of one workload and batch share; sent to each process once."""

    workload: Workload
    topology: Topology
    base: Plan
    trials: Trials
    by_type: Mapping[str, Workload]
    unchecked: bool
    host_speed: float
    baseline: Result | None


def _played(job: Job, candidate: Candidate) -> Played:
    """Return a plan as it is replayed: with its devices and its stages chosen."""
    plan = candidate.plan(job.base)
    return best_played(
        job.workload, job.topology, plan, job.by_type, host_speed=job.host_speed, unchecked=job.unchecked
    )


def row_here(job: Job, candidate: Candidate) -> Row:
    """Return the row of one plan, or why it cannot be run."""
    row: Row = dict.fromkeys(COLUMNS) | _known(job, candidate)
    try:
        played = _played(job, candidate)
        result = simulate_played(
            played, job.trials, unchecked=job.unchecked, baseline=job.baseline, spans=False, fold=True
        )
    except MpsimError as error:
        return row | {"reason": str(error)}
    return row | summary_row(result)


def origin_of(plans: Sequence[tuple[Job, Candidate]], row: Row) -> Origin:
    """Return what a row of a sweep was replayed from: its plan on the devices and with the stages that were chosen.

    Raises
    ------
    MpsimError
        None of the sweep's plans is the row's, or several are.
    """
    # The text of a plan that ran has what was chosen for it.
    found = [(job, one) for job, one in plans if all(_known(job, one)[name] == row[name] for name in _TOLD_APART_BY)]
    if len(found) != 1:
        raise MpsimError(f"{len(found)} plans of the sweep are {row['plan']!r}: explain it by mpsim.explain")
    ((job, candidate),) = found
    played = _played(job, candidate)
    options = {"by_type": job.by_type, "unchecked": job.unchecked, "host_speed": job.host_speed}
    return Origin(job.workload, job.topology, played.lowering.plan, options)


def packed(jobs: Sequence[Job]) -> bytes:
    """Return jobs as bytes for workers that share nothing with this process, with what its user registered.

    Raises
    ------
    MpsimError
        A schedule or algorithm of the user's own that cannot be sent.
    """
    pairs = zip(_REGISTRIES, _KNOWN, strict=True)
    own = [[pair for pair in registry.items() if pair[1] is not known.get(pair[0])] for registry, known in pairs]
    try:
        # In two shells: what another mpsim made may not even be read.
        return pickle.dumps((code_digest(), pickle.dumps((own, jobs))))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MpsimError(f"what was registered cannot be sent ({error}): define it at the top of a module") from None


_unpacked: dict[str, Sequence[Job]] = {}


def row_there(name: str, data: bytes, number: int, candidate: Candidate) -> Row:
    """Return a row of a job in a worker that knows jobs by a name once it was given them as `packed` makes them.

    Raises
    ------
    MpsimError
        The worker has another mpsim, or computes with other libraries, than whoever asks.
    """
    if name not in _unpacked:
        code, inner = pickle.loads(data)
        if code != code_digest():
            raise MpsimError("a worker has another mpsim, Python, numpy or simpy than this process: install the same")
        own, jobs = pickle.loads(inner)
        for registry, pairs in zip(_REGISTRIES, own, strict=True):
            registry.update(pairs)
        _unpacked.clear()
        _unpacked[name] = jobs
    return row_here(_unpacked[name][number], candidate)


def coordinates(workload: Workload, topology: Topology, plan: Plan, batch: int, trials: Trials) -> Row:
    """Return what is known of a plan before it is run; the batch need not divide."""
    parts = plan.dp * plan.microbatches
    return {
        "workload": workload.name,
        "topology": topology.name,
        "plan": plan.text,
        "strategy": plan.strategy,
        "n_devices": plan.ranks,
        "dp": plan.dp,
        "pp": plan.pp,
        "tp": plan.tp,
        "global_batch": batch,
        "microbatches": plan.microbatches,
        "microbatch_size": None if batch % parts else batch // parts,
        "schedule": plan.schedule_name if plan.pp > 1 else None,
        "runtime": plan.runtime,
        "algorithm": plan.algorithm,
        "trials": trials.count,
        "tokens_per_sample": tokens_per_sample(workload) or None,
    }


def _known(job: Job, candidate: Candidate) -> Row:
    # The text and the strategy do not depend on the batch, the one thing for which there may be no such plan.
    plan = candidate.plan(Plan(runtime=job.base.runtime))
    found = coordinates(job.workload, job.topology, plan, job.base.batch, job.trials)
    return found | {"algorithm": job.base.algorithm}
