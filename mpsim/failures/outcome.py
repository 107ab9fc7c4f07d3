"""The answer: how much of the wall time was useful, trial by trial, and where the rest went."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpsim.above import above
from mpsim.calls import checked
from mpsim.documents import Document, Provenance
from mpsim.reprs import short_repr
from mpsim.result.statistics import quantile

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Formula", "Goodput", "Replayed", "Tried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An interval between checkpoints, and the mean goodput of some trials with it."""

    interval_s: float
    steps: int
    goodput: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a step takes while devices are slow or replicas out, and what the whole plan would take for as many samples.

    Attributes
    ----------
    what : str
        Such as ``"replica 1 out"``, ``"2 replicas out"`` where they are taken to be alike, ``"d3 1.5 times slower"``.
    """

    what: str
    step_s: float
    useful_s: float

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """What Young's and Daly's formulas say: times of steps between checkpoints, and the goodput with the interval used.

    Attributes
    ----------
    young_s, daly_s, goodput : float
        Seconds, seconds, a fraction.
    misses : tuple of str
        What of this run the formulas do not know, in a phrase each; none: their assumptions hold.
    """

    young_s: float
    daly_s: float
    goodput: float
    misses: tuple[str, ...] = ()


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput(Document):
    """A run of a plan through failures, over trials.

    ``useful_s + lost_s + checkpoint_s + restart_s + repair_s + slowed_s == horizon_s`` in every trial, exactly.

    Attributes
    ----------
    workload, topology, plan : str
        What was run.
    caveats, notes : tuple of str
        What it rests on, the worst first, and what else is to be known.
    n_devices, nodes : int
        That the plan stands on.
    step_s : float
        The undisturbed step.
    global_batch, tokens_per_sample : int
        Samples in it, and tokens in each; 0 where nobody said.
    kind : str
        Of the checkpoints.
    interval_s, interval_steps
        Steps between them.
    checkpoint_bytes : int
        What one saves; 0 where its time was given.
    blocked_s, written_s, read_s : float
        How long one keeps steps up, how much longer it is not safe, and how long reading it back takes.
    mtbf_s : float
        Mean time between the random failures of all that is used together; ``inf``: none.
    horizon_s : float
        The wall time of each trial.
    deterministic : bool
        Nothing was random, and one trial stands for all.
    stops : tuple of int
        How often each trial was stopped, by failures and by replicas that came back.
    useful_s : tuple of float
        Of each trial: what the undisturbed plan would take for the samples that count at the end.
    lost_s : tuple of float
        Steps that were done again, those slowed included.
    checkpoint_s : tuple of float
        Steps kept up by checkpoints.
    restart_s : tuple of float
        Detection, restarts, reading back.
    repair_s : tuple of float
        Waiting for a node or a link.
    slowed_s : tuple of float
        What steps took longer with slow devices, or with fewer, than the undisturbed plan's for as many samples.
    best : Tried or None
        The interval with the highest mean goodput; None where no failure tells intervals apart.
    tried : tuple of Tried
        All that were tried, by length.
    tried_on : int
        On so many of the trials: those that have stops enough.
    formula : Formula or None
        Beside it, where failures are random.
    replayed : tuple of Replayed
        The situations in which steps were replayed.

    Examples
    --------
    >>> found = Goodput(workload="mlp", topology="pair", plan="dp=2", step_s=1.0, interval_s=4.0, interval_steps=4,
    ...                 horizon_s=8.0, useful_s=(6.0,), lost_s=(0.5,), checkpoint_s=(1.5,), restart_s=(0.0,),
    ...                 repair_s=(0.0,), slowed_s=(0.0,), stops=(1,))
    >>> found.goodput, found.parts["checkpoint"]
    (0.75, 0.1875)
    """

    _file = "failures.file:goodput"
    _reads = "failures.file:load_goodput"
    _written = "a Goodput or the path of its file"

    workload: str
    topology: str
    plan: str
    caveats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fidelity: str = "given"
    n_devices: int = 1
    nodes: int = 1
    step_s: float
    global_batch: int = 0
    tokens_per_sample: int = 0
    kind: str = "sharded"
    interval_s: float
    interval_steps: int
    checkpoint_bytes: int = 0
    blocked_s: float = 0.0
    written_s: float = 0.0
    read_s: float = 0.0
    mtbf_s: float = math.inf
    horizon_s: float
    deterministic: bool = False
    stops: tuple[int, ...]
    useful_s: tuple[float, ...]
    lost_s: tuple[float, ...]
    checkpoint_s: tuple[float, ...]
    restart_s: tuple[float, ...]
    repair_s: tuple[float, ...]
    slowed_s: tuple[float, ...]
    best: Tried | None = None
    tried: tuple[Tried, ...] = ()
    tried_on: int = 0
    formula: Formula | None = None
    replayed: tuple[Replayed, ...] = ()
    provenance: Provenance = Provenance()

    __repr__ = short_repr

    @property
    def trials(self) -> int:
        """How many there are."""
        return len(self.useful_s)

    @property
    def trial_goodput(self) -> tuple[float, ...]:
        """Useful over wall time of each trial."""
        return tuple(useful_s / self.horizon_s for useful_s in self.useful_s)

    @property
    def goodput(self) -> float:
        """Its mean over trials."""
        return math.fsum(self.useful_s) / self.trials / self.horizon_s

    @property
    def standard_error(self) -> float:
        """Of that mean; 0 of a single trial."""
        if self.trials < 2:
            return 0.0
        mean = self.goodput
        return math.sqrt(math.fsum((one - mean) ** 2 for one in self.trial_goodput) / (self.trials - 1) / self.trials)

    def quantile(self, fraction: float) -> float:
        """Return the goodput below which so large a fraction of the trials lies."""
        return quantile(self.trial_goodput, fraction)

    @property
    def throughput_samples_per_s(self) -> float:
        """Samples that count, a second of wall time; 0 of a step without samples."""
        return self.goodput * self.global_batch / self.step_s

    @property
    def throughput_tokens_per_s(self) -> float:
        """Tokens, where it is known how many a sample has; else 0."""
        return self.throughput_samples_per_s * self.tokens_per_sample

    @property
    def parts(self) -> dict[str, float]:
        """Mean part of the wall time by what it went to, useful first."""
        names = ("useful", "lost", "checkpoint", "restart", "repair", "slowed")
        return {name: math.fsum(getattr(self, f"{name}_s")) / self.trials / self.horizon_s for name in names}

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each trial: goodput, stops, and the seconds of each part."""
        import pandas as pd

        columns = {"goodput": self.trial_goodput, "stops": self.stops}
        columns |= {f"{name}_s": getattr(self, f"{name}_s") for name in self.parts}
        return pd.DataFrame(columns).rename_axis("trial").reset_index()

    def _repr_html_(self) -> str:
        return str(above("cards.goodput").card(self))

    def plot(self) -> Any:
        """Return a figure of where the wall time went, the distribution over trials, the intervals that were tried."""
        from mpsim.result.plotting.goodput import goodput

        tried = [(one.interval_s, one.goodput) for one in self.tried]
        subject = f"{self.workload} | {self.plan} | {self.topology}"
        return goodput(self.parts, self.trial_goodput, tried, interval_s=self.interval_s, subject=subject)
