"""What makes a plan fit: changes of it that do, and what each costs in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpsim.above import above
from mpsim.calls import checked
from mpsim.plan.model import Plan
from mpsim.reprs import short_repr
from mpsim.result.text import caution
from mpsim.search.found import Unfit
from mpsim.search.neighbours import KINDS
from mpsim.tables import Text, align, joined
from mpsim.units import format_bytes, format_duration

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Fix", "MadeFit", "options_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """A change with which a plan fits.

    Attributes
    ----------
    kinds : tuple of str
        What is changed, one thing or two: keys of `mpsim.search.neighbours.KINDS`.
    options : str
        What ``mpsim simulate`` is to be given beside the plan's own options.
    plan : Plan
        The plan then.
    step_s : float
        Its step, as `mpsim.simulate` predicts it.
    more_fraction : float
        By how much longer that is than the step of the plan that does not fit; below 0: shorter.
    peak_bytes, capacity_bytes : int
        What its fullest device holds, and what that has; 0 if unknown.
    caveats : tuple of str
        What may make that wrong.
    """

    kinds: tuple[str, ...]
    options: str
    plan: Plan
    step_s: float
    more_fraction: float
    peak_bytes: int
    capacity_bytes: int
    caveats: tuple[str, ...] = ()

    @property
    def time(self) -> str:
        """What it costs in time, such as ``+3.2 %``."""
        return f"{100 * self.more_fraction:+.1f} %".replace("-0.0", "+0.0")

    @property
    def needs(self) -> str:
        """What its fullest device holds, of what."""
        return f"{format_bytes(self.peak_bytes)} of {format_bytes(self.capacity_bytes) if self.capacity_bytes else '?'}"

    @property
    def short(self) -> str:
        """The options, of long lists their first and last; the plan has all."""
        return " ".join(_shortened(word) for word in self.options.split(" "))

    def __str__(self) -> str:
        return f"fits with {self.short}: {self.time} of time (needs {self.needs})"


def _shortened(word: str) -> str:
    """Write a list of many in few words.

    Examples
    --------
    >>> _shortened("1,2,3"), _shortened(",".join(map(str, range(20))))
    ('1,2,3', '0,1,2,…,19 (20 layers)')
    """
    each = word.split(",")
    return word if len(each) <= _MOST_NAMED else f"{','.join(each[:3])},…,{each[-1]} ({len(each)} layers)"


_MOST_NAMED = 12


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFit:
    """The changes that make a plan fit.

    Attributes
    ----------
    workload, topology : str
        What is split, over what.
    plan : Plan
        The plan that does not.
    step_s : float
        Its step, if memories were large enough.
    peak_bytes, capacity_bytes : int
        What its fullest device holds, and what that has.
    fixes : tuple of Fix
        Of each kind of change the fastest, the fastest of all first, that on more devices last; where on the same
        devices no single change is enough the fastest pair; empty where no pair is, or the plan fits.
    fits : bool
        Whether the plan fits as it is, or nothing is known to be too small.
    short : tuple of str
        The kinds of change of which none is enough alone.
    nearest : Unfit or None
        Where nothing is enough, the plan that comes nearest.
    tried : int
        Plans that were replayed.

    Examples
    --------
    >>> made = MadeFit(workload="w", topology="t", plan=Plan(dp=2), step_s=1.0, peak_bytes=90, capacity_bytes=80)
    >>> made.fits, made.fixes
    (False, ())
    """

    workload: str
    topology: str
    plan: Plan
    step_s: float
    peak_bytes: int
    capacity_bytes: int
    fixes: tuple[Fix, ...] = ()
    fits: bool = False
    short: tuple[str, ...] = ()
    nearest: Unfit | None = field(default=None, repr=False)
    tried: int = 0

    __repr__ = short_repr

    @property
    def best(self) -> Fix | None:
        """The change that costs the least time, on the same devices if it can be; None if there is none."""
        return self.fixes[0] if self.fixes else None

    @property
    def caveats(self) -> tuple[str, ...]:
        """What may make one of the changes wrong."""
        return tuple(dict.fromkeys(text for one in self.fixes for text in one.caveats))

    def _repr_html_(self) -> str:
        return str(above("cards.made_fit").card(self))

    def __str__(self) -> str:
        if self.fits:
            return "it fits: nothing is to be changed"
        if not self.fixes:
            return self._nothing()
        lines: list[str] = [f"{caution(self.caveats)}{self.fixes[0]}"]
        if len(self.fixes) > 1:
            lines.append(self._table())
        if any(one.short != one.options for one in self.fixes):
            lines.append("with …: the whole list is in --json, and in what --save-plan writes")
        if self.short:
            lines.append(f"not enough alone: {'; '.join(KINDS[kind] for kind in self.short)}")
        return joined("\n\n", lines)

    def _table(self) -> Text:
        rows = self.fixes
        columns = [
            ("with", True, [one.short for one in rows]),
            ("devices", False, [str(one.plan.ranks) for one in rows]),
            ("step", False, [format_duration(one.step_s) for one in rows]),
            ("time", False, [one.time for one in rows]),
            ("needs", False, [format_bytes(one.peak_bytes) for one in rows]),
        ]
        return align([one for one in columns if one[0] != "devices" or self._takes_more])

    @property
    def _takes_more(self) -> bool:
        return any(one.plan.ranks > self.plan.ranks for one in self.fixes)

    def _nothing(self) -> str:
        text = "no change of one thing or of two makes it fit"
        if self.nearest is None:
            return text
        plan, count, capacity = self.nearest
        lacks = f", {format_bytes(count - capacity)} more than a device has" if capacity else ""
        return f"{text}; the nearest is {plan.text}: it needs {format_bytes(count)} on a device at least{lacks}"

    def rows(self) -> list[dict[str, Any]]:
        """Return the changes as flat objects, units in the keys."""
        names = ("options", "step_s", "more_fraction", "peak_bytes", "capacity_bytes")
        return [
            {"change": " and ".join(KINDS[kind] for kind in one.kinds), "plan": one.plan.text}
            | {"n_devices": one.plan.ranks}
            | {name: getattr(one, name) for name in names}
            for one in self.fixes
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return the changes, a row each."""
        import pandas as pd

        return pd.DataFrame(self.rows())


_OPTIONS = {
    "dp": "dp", "pp": "pp", "tp": "tp", "cp": "cp", "ep": "ep", "microbatches": "microbatches", "chunks": "chunks",
}  # fmt: skip
_OF_SHARDING = {
    "zero": "zero", "shards": "shards", "units": "fsdp-units", "gather_ahead": "gather-ahead",
    "reshard_after_forward": "reshard", "recompute": "recompute", "offload": "offload",
}  # fmt: skip


def options_of(old: Plan, new: Plan) -> str:
    """Return the options that make one plan of another, as they are written on a command line.

    Examples
    --------
    >>> options_of(Plan(dp=4, microbatches=2), Plan(dp=2, tp=2, microbatches=4))
    '--dp 2 --tp 2 --microbatches 4'
    """
    words = [
        f"--{word} {getattr(new, name)}" for name, word in _OPTIONS.items() if getattr(new, name) != getattr(old, name)
    ]
    if new.schedule != old.schedule:
        words.append(f"--schedule {new.schedule_name}")
    if new.boundaries != old.boundaries and new.boundaries:
        words.append(f"--stages {','.join(map(str, new.boundaries))}")
    same = new.sharding.at(old.sharding.zero) if new.sharding.zero < old.sharding.zero else old.sharding
    for name, word in _OF_SHARDING.items():
        value = getattr(new.sharding, name)
        if value != getattr(old.sharding if name == "zero" else same, name):
            words.append(f"--{word} {value if ' ' not in str(value) else repr(value)}")
    if new.sharding.sequence and not old.sharding.sequence:
        words.append("--sequence")
    if new.batch != old.batch:
        words.append(f"--batch {new.batch}")
    return " ".join(words)
