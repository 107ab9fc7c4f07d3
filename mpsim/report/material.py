"""What a report is made of: all that is known of one question, wherever it was found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mpsim.documents import Provenance
from mpsim.explanation import Explanation
from mpsim.plan.model import Plan
from mpsim.result.model import Result
from mpsim.result.once import once
from mpsim.search.rates import Rates
from mpsim.sweeps.model import Row, SweepResult
from mpsim.topology.model import Topology
from mpsim.workload.model import Workload

__all__ = ["NO_RATES", "Material", "Source"]

NO_RATES = Rates(tokens=0, flops=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was read.

    Attributes
    ----------
    what, name : str
        Such as ``workload``, and the file's name or the text that was given.
    sha256 : str
        Of the file; ``""``: it was none.
    provenance : Provenance
        What the file says of itself.
    """

    what: str
    name: str
    sha256: str = ""
    provenance: Provenance = Provenance()


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a report is made of; None where it is not known, which the page then says.

    Attributes
    ----------
    sweep : SweepResult
        The rows of one workload, topology and batch.
    counted : tuple of str
        What became of all the plans that were looked at, a line each.
    rates : Rates
        In which units steps are told.
    workload, topology, plan
        What is split, over what, and the best way of it.
    result : Result
        Of the best plan, with spans.
    explanation : Explanation
        Of the best plan.
    real : tuple of Result
        What was run.
    doubts : tuple of str
        What may make the page wrong beside what the results say themselves.
    missing : mapping of str to str
        By section, why it is not there and what to do.
    sources : tuple of Source
        What was read.
    """

    sweep: SweepResult
    counted: tuple[str, ...] = ()
    rates: Rates = NO_RATES
    workload: Workload | None = None
    topology: Topology | None = None
    plan: Plan | None = None
    result: Result | None = None
    explanation: Explanation | None = None
    real: tuple[Result, ...] = ()
    doubts: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    @property
    def best(self) -> Row | None:
        """The row of the fastest plan that is not known to overflow a memory."""
        return self.sweep.best

    @property
    def about(self) -> Row | None:
        """The row that says what was asked: the best one, or any."""
        return self.best or next(iter(self.sweep.rows), None)

    @property
    def by_devices(self) -> list[Row]:
        """The fastest plan of each number of devices, the fewest first."""
        return self.sweep.by_devices

    @property
    def caveats(self) -> tuple[str, ...]:
        """All that may make the page wrong, the worst first, each thing once."""
        shown = (self.result,) if self.result is not None else ()
        own = (phrase for one in (*shown, *self.real) for phrase in one.caveats)
        beyond = (
            f"extrapolated: {count.beyond:,} of {count.transfers:,} {count.kind} of the best plan are of sizes or over"
            " ranks that the topology's costs were not measured for"
            for one in shown
            for count in one.traffic
            if count.beyond
        )
        return once((*self.doubts, *self.sweep.caveats, *own, *beyond))
