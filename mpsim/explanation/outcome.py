"""The explanation of a step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mpsim.above import above
from mpsim.calls import checked
from mpsim.explanation.compare import Beside, side_by_side, why
from mpsim.explanation.model import FullLink, Part, PathStep, WhatIf
from mpsim.explanation.text import comparison_text, facts_text, links_text, parts_text, path_text, what_ifs_text
from mpsim.reprs import short_repr
from mpsim.result.frames import result_to_dict
from mpsim.result.model import Result
from mpsim.result.text import batch_of, caution, short_notes
from mpsim.tables import joined

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Explanation"]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a step goes, what it waits for, and what would make it shorter.

    ``sum(part.seconds for part in parts) == result.step_s``, exactly, in any order.

    Attributes
    ----------
    result : Result
        The step, without spans, every time at its median.
    parts : tuple of Part
        Of the mean device.
    path : tuple of PathStep
        The critical path, in order; each begins as the one before it ends.
    links : tuple of FullLink
        Links that carry all that they can for some of the step, the longest first.
    what_ifs : tuple of WhatIf
        The most gained first, then those that cannot be run.
    against : Explanation or None
        Another plan's, of the same batch.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> parts = (Part(name="compute", seconds=1.5), Part(name="bubble", seconds=0.5))
    >>> print(Explanation(result=result, parts=parts, path=(), links=()))
    mlp | pp=2 | pair
    <BLANKLINE>
    step            2 s, every time at its median
    most lost to    pipeline bubble, 25.0 % of it
    <BLANKLINE>
    where the step goes    time  of step
    computing             1.5 s   75.0 %
    pipeline bubble      500 ms   25.0 %
    all of it               2 s  100.0 %
    <BLANKLINE>
    no link is full for 1 % of the step
    """

    result: Result
    parts: tuple[Part, ...]
    path: tuple[PathStep, ...]
    links: tuple[FullLink, ...]
    what_ifs: tuple[WhatIf, ...] = ()
    against: Explanation | None = None

    __repr__ = short_repr

    @property
    def beside(self) -> tuple[Beside, ...]:
        """Its parts beside those of the plan that it is held against."""
        return side_by_side(self.parts, self.against.parts) if self.against else ()

    @property
    def why(self) -> str:
        """Why the faster of the two plans is faster, in a sentence; ``""`` without another plan."""
        if self.against is None:
            return ""
        return why(self.beside, self.result.step_s, self.against.result.step_s)

    def _repr_html_(self) -> str:
        return str(above("cards.explained").card(self))

    def __str__(self) -> str:
        result = self.result
        caveats = dict.fromkeys((*result.caveats, *(self.against.result.caveats if self.against else ())))
        blocks = [caution(tuple(caveats)) + self._head, *self._account()]
        blocks += [path_text(self.path, result.step_s), links_text(self.links, result.step_s)]
        blocks += [what_ifs_text(self.what_ifs), "\n".join(short_notes(result.notes))]
        return joined("\n\n", filter(None, blocks))

    @property
    def _head(self) -> str:
        result = self.result
        if self.against is None:
            return f"{result.workload} | {result.plan} | {result.topology}{batch_of(result)}"
        return (
            f"{result.workload} | {result.topology}{batch_of(result)}\nA: {result.plan}\nB: {self.against.result.plan}"
        )

    def _account(self) -> list[str]:
        step_s = self.result.step_s
        if self.against is None:
            facts = facts_text(self.parts, self.what_ifs, step_s, self.result.global_batch)
            return [facts, parts_text(self.parts, step_s) if self.parts else ""]
        table = comparison_text(self.beside, step_s, self.against.result.step_s)
        return [self.why, table, "What follows is of A."]

    def to_frame(self) -> pd.DataFrame:
        """Return the critical path, a row for each task."""
        import pandas as pd

        return pd.DataFrame(self.path_rows())

    def path_rows(self) -> list[dict[str, Any]]:
        """Return the critical path, a flat object for each task, units in the keys."""
        return [
            {
                "start_s": one.start_s, "end_s": one.end_s, "takes_s": one.takes_s, "name": one.name, "what": one.what,
                "devices": ", ".join(one.devices), "stage": one.stage if one.stage >= 0 else None,
                "microbatch": one.microbatch if one.microbatch >= 0 else None, "link": one.link or None,
                "latency_s": one.latency_s, "shared_s": one.shared_s, "because": one.because,
            }
            for one in self.path
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return it as one object for JSON: what ``mpsim explain --json`` prints."""
        found: dict[str, Any] = {
            "result": result_to_dict(self.result),
            "parts": [asdict(one) | {"label": one.label} for one in self.parts],
            "critical_path": self.path_rows(),
            "full_links": [asdict(one) for one in self.links],
            "what_ifs": [_what_if(one) for one in self.what_ifs],
        }
        if self.against:
            found |= {"against": self.against.to_dict(), "why": self.why}
            found["side_by_side"] = [one._asdict() for one in self.beside]
        return found


def _what_if(one: WhatIf) -> dict[str, Any]:
    names = ("name", "detail", "step_s", "global_batch", "gain_fraction", "fits", "reason")
    changed = {"plan": one.plan and one.plan.text, "topology": one.topology and one.topology.name}
    return {name: getattr(one, name) for name in names} | changed
