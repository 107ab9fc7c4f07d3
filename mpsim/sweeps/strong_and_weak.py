"""Strong and weak scaling: what more devices bring to the same batch, and to a batch that grows with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mpsim.sweeps.model import Row, SweepResult, grouped
from mpsim.sweeps.question import setting_of

__all__ = ["SCALING_COLUMNS", "scaling_rows"]

SCALING_COLUMNS = (
    "series", "workload", "topology", "global_batch", "n_devices", "plan", "step_s", "throughput_samples_per_s",
    "throughput_tokens_per_s", "fits", "speedup", "speedup_over_devices", "efficiency_fraction", "batch_per_device",
    "weak_efficiency_fraction", "weak_over_devices", "fidelity", "caveats",
)  # fmt: skip
# What tells series apart, in words.
_TOLD = {
    "workload": "{}", "topology": "{}", "runtime": "{}", "algorithm": "{}", "launch": "launch {}",
    "trials": "trials {}",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The fastest plan on each number of devices, of one workload, topology and batch in one sweep."""

    sweep: int
    setting: str
    told: dict[str, Any]
    batch: int
    best: dict[int, Row]


def scaling_rows(sweeps: SweepResult | Sequence[SweepResult], names: Sequence[str] = ()) -> list[Row]:
    """Return the fastest plan on each number of devices, and how much the devices help.

    Strong scaling: on the same batch, `speedup` over the fewest devices that have a plan (`speedup_over_devices`), and
    `efficiency_fraction`, by what as many times the devices would bring at best. Weak scaling: with the same
    `batch_per_device`, `weak_efficiency_fraction` is the throughput of a device by that on the fewest devices
    (`weak_over_devices`); None where no two numbers of devices have that batch a device. Only steps of one workload,
    topology and setting are compared, never those of unequal batches. Devices on which no plan can be run and fits have
    no row.

    Parameters
    ----------
    sweeps : SweepResult or sequence of SweepResult
        Of any batches, workloads and topologies.
    names : sequence of str, optional
        Of the sweeps, for those that nothing else tells apart; by default their numbers.

    Returns
    -------
    list of dict
        With the keys ``SCALING_COLUMNS``, by series, batch and devices. `series` says what tells those apart that are
        not compared, besides the batch: "" where there is one.

    References
    ----------
    https://en.wikipedia.org/wiki/Scalability#Weak_versus_strong_scaling

    Examples
    --------
    >>> steps = {(8, 1): 4.0, (8, 2): 2.5, (16, 2): 5.0}
    >>> common = {"workload": "w", "topology": "t", "plan": "p", "rank": 1}
    >>> rows = [common | {"global_batch": b, "n_devices": n, "step_s": s} for (b, n), s in steps.items()]
    >>> for row in scaling_rows(SweepResult(rows=tuple(rows), planned=3)):
    ...     print(row["global_batch"], row["n_devices"], row["speedup"], row["weak_efficiency_fraction"])
    8 1 1.0 1.0
    8 2 1.6 None
    16 2 1.0 0.8
    """
    given = [sweeps] if isinstance(sweeps, SweepResult) else list(sweeps)
    series = _series([group for number, found in enumerate(given) for group in _groups(number, found)])
    labels = _labels(series, names or [f"sweep {number}" for number in range(1, len(given) + 1)])
    rows = []
    for label, groups in zip(labels, series, strict=True):
        weak = _weak(groups)
        for group in groups:
            rows += [_row(label, group, n, weak[Fraction(group.batch, n)]) for n in group.best]
    return rows


def _groups(number: int, found: SweepResult) -> Iterator[_Group]:
    for rows in grouped(found.rows):
        best: dict[int, Row] = {}
        for row in sorted((row for row in rows if row["rank"]), key=lambda row: int(row["rank"])):
            best.setdefault(row["n_devices"], row)
        if best:
            questions = {setting_of(row.get("question")) for row in rows}
            yield _Group(
                sweep=number,
                setting=questions.pop() if len(questions) == 1 else "",
                told={name: _common([row.get(name) for row in best.values()]) for name in _TOLD},
                batch=rows[0]["global_batch"],
                best=dict(sorted(best.items())),
            )


def _common(values: Sequence[Any]) -> Any:
    """Return what all agree on; None where they do not, as plans of a search need not on how they are launched."""
    return values[0] if len(set(values)) == 1 else None


def _series(groups: Sequence[_Group]) -> list[list[_Group]]:
    """Return the groups that compare: those of one setting, but for two of one batch, which something must tell apart.

    Of tables that do not say what was asked only those of one sweep compare.
    """
    found: dict[tuple[Any, ...], list[_Group]] = {}
    for group in groups:
        key = (group.setting, group.told["workload"], group.told["topology"], "" if group.setting else group.sweep)
        found.setdefault(key, []).append(group)
    apart = []
    for same in found.values():
        if len({group.batch for group in same}) == len(same):
            apart.append(same)
        else:
            sweeps = dict.fromkeys(group.sweep for group in same)
            apart += [[group for group in same if group.sweep == sweep] for sweep in sweeps]
    return [sorted(same, key=lambda group: group.batch) for same in apart]


def _labels(series: Sequence[Sequence[_Group]], names: Sequence[str]) -> list[str]:
    """Say of each series what differs, and from which sweep it is where nothing seen does."""
    told = [{name: _common([group.told[name] for group in groups]) for name in _TOLD} for groups in series]
    differing = [name for name in _TOLD if len({one[name] for one in told}) > 1]
    labels = [", ".join(_TOLD[name].format(one[name]) for name in differing if one[name] is not None) for one in told]
    if len(set(labels)) == len(labels):
        return labels
    sources = (", ".join(dict.fromkeys(names[group.sweep] for group in groups)) for groups in series)
    return [f"{label}, {source}".removeprefix(", ") for label, source in zip(labels, sources, strict=True)]


def _weak(groups: Sequence[_Group]) -> dict[Fraction, dict[int, Row]]:
    """Return the best plans by their batch a device, then by their devices, the fewest first."""
    found: dict[Fraction, dict[int, Row]] = {}
    for group in groups:
        for n, row in group.best.items():
            found.setdefault(Fraction(group.batch, n), {})[n] = row
    return {each: dict(sorted(by_devices.items())) for each, by_devices in found.items()}


def _row(label: str, group: _Group, n: int, weak: dict[int, Row]) -> Row:
    row = group.best[n]
    (fewest, first), *_ = group.best.items()
    (weak_fewest, weak_first), *others = weak.items()
    speedup = first["step_s"] / row["step_s"]
    throughput, tokens = group.batch / row["step_s"], row.get("tokens_per_sample")
    new = {
        "series": label,
        "throughput_samples_per_s": throughput,
        "throughput_tokens_per_s": throughput * tokens if tokens else None,
        "speedup": speedup,
        "speedup_over_devices": fewest,
        "efficiency_fraction": speedup * fewest / n,
        "batch_per_device": group.batch / n,
        # Of equal batches a device the throughputs are as the steps the other way round.
        "weak_efficiency_fraction": weak_first["step_s"] / row["step_s"] if others else None,
        "weak_over_devices": weak_fewest if others else None,
    }
    return {name: new[name] if name in new else row.get(name) for name in SCALING_COLUMNS}
