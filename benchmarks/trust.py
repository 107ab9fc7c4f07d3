"""How far to trust what is predicted, in one table: ``python benchmarks/trust.py``.

Writes docs/trust.md, of the rows and traces that are kept, and of what the other pages of measurements say; nothing is
run. The README's table has rows of it. What a page has to say in words alone stands here as it does there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import published
import real_schedules

import mpsim
from mpsim.validate import Comparison, Validation, load_rows
from mpsim.validate.exchanges import Exchanged
from mpsim.validate.model import summarize
from mpsim.validate.recipes import Judged
from mpsim.validate.steps import summarize_steps, validate_steps
from mpsim.validate.steps_file import COMMITTED, load_steps
from mpsim.workload.split import WHOLE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
Row = tuple[str, str, str]

_HEAD = """\
# How far to trust it

Made by `python benchmarks/trust.py` of the rows, traces and pages that it names.

Weakest: mixtures of experts ({experts} % off, too fast), torchtitan with cp > 1, clouds whose networks nobody
published, other devices by rooflines alone, PyTorch's own looped and zero-bubble classes. No row calibrated what
judges it.

| what | how close | where |
|---|---|---|
"""
_TAIL = """
The real runs are of processes on one machine, over links imposed between them. Of GPUs, steps of *one* H200 have been
compared with, from units recorded there; this version has run on none, and splits over several only with what others
published. What every number means, and what it leaves out, is in [model](model.md). Every result carries a
*fidelity*: `measured`, `interpolated`, `scaled` (measured on another device), `analytical` (roofline), `given` (by
hand), `doubtful` (the trace misses its own step); its first line says what may make it wrong.

## Speed

By `python benchmarks/speed.py` on two cores of a shared AMD EPYC: 1F1B on 64 stages × 1,024 micro-batches replays
127,000 operations a second in 176 MB; an all-reduce over 1,024 devices takes 9 ms; `mpsim simulate` 0.36 s from cold
start, without torch.
"""


def page() -> str:
    """Return docs/trust.md."""
    experts = _range([_recipes("mixtures of experts")[1], _published()["experts"]], 0).removesuffix(" %")
    rows = [*_measured(), *_others(), *_formulas(), *_networks(), *_real()]
    return _HEAD.format(experts=experts) + "".join(f"| {' | '.join(row)} |\n" for row in rows) + _TAIL


def readme() -> list[str]:
    """Return what the README's table says of how close predictions are, of its first four rows."""
    found, steps, (count, dense) = _published(), _steps(), _recipes("dense models, cp of torchtitan's aside")
    experts, long = _recipes("mixtures of experts"), _recipes("torchtitan with cp > 1")
    assert count
    assert f"{experts[1]:.0f}" == f"{long[1]:.0f}"
    runs = summarize(_rows("validation-replayed"))
    assert runs is not None
    return [
        f"mean error of a file {_range(found['files'])}; torchtitan {_whole(found['torchtitan'])}, **mixtures of"
        f" experts {_whole(found['experts'])}**",
        f"dense models mean {_one(dense)}; **mixtures of experts and torchtitan with cp > 1 {_whole(long[1])}**",
        f"mean {_one(100 * runs.mean_fraction)}, worst {_one(100 * runs.worst_fraction)}; rank correlation of plans"
        f" {_least_order('validation-replayed'):.3f}",
        f"bound by the device mean {_one(steps['device-bound, back to back'][0])}, worst"
        f" {_one(steps['device-bound, back to back'][1])}; bound by launches"
        f" {_range(steps['launch-bound, back to back'], 0)}",
    ]


def _measured() -> list[Row]:
    """Return what traces and recorded units say of the steps that they are of."""
    checks = [(one, check) for one in _cpu_workloads() for check in one.checks]
    off = [check.ratio - 1 for _, check in checks]
    near = sum(abs(one) <= 0.05 for one in off)
    largest = [max((c for c in one.checks if c.split == WHOLE), key=lambda c: c.microbatch) for one in _cpu_workloads()]
    most = max(abs(check.ratio - 1) for check in largest)
    steps = _steps()
    device, launch = steps["device-bound, back to back"], steps["launch-bound, back to back"]
    held, reserved = steps["peak allocated above 1 GiB"], steps["peak reserved above 1 GiB"]
    count = sum(one.count for one in summarize_steps(_step_rows()) if one.name.endswith("back to back"))
    return [
        (
            "the sum of layers against the plain step, in the same run, on a CPU",
            f"{near} of {len(off)} points within 5 % (the widest {100 * max(off, key=abs):+.1f} %); unsharded at its"
            f" largest"
            f" micro-batch, every model within {_up(100 * most)} %; gradients, bytes kept and loss as in the plain"
            f" step at all",
            "[traces](traces.md)",
        ),
        (
            f"{count} steps of one H200, five models, from what each one's layers took there one by one",
            f"device-bound: mean {_one(device[0])}, worst {_one(device[1])}; launch-bound, back to back:"
            f" {_both(launch)}"
            f" (that host varies by 4 to 60 % itself); peak allocated above 1 GiB: {_both(held)}, reserved"
            f" {_both(reserved)}",
            "[steps](steps.md)",
        ),
    ]


def _others() -> list[Row]:
    """Return what others published: steps, configurations, FSDP's memory."""
    found = _published()
    dense = _recipes("dense models, cp of torchtitan's aside")[1]
    bridge = _recipes("dense recipes of Megatron-Bridge")[1]
    experts, long = _recipes("mixtures of experts")[1], _recipes("torchtitan with cp > 1")[1]
    judging = sum(one.judges for one in _judged())
    megatron = [one.error_fraction for one in _judged() if one.judges and one.system.startswith("A100, Megatron-LM")]
    theirs = [
        tuple(map(int, found))
        for found in re.findall(
            r"- (?:\w+): of (\d+) rows, theirs is the best in (\d+) and within 10 % of it in (\d+)", _text("recipes")
        )
    ]
    bridged = _numbers(
        "recipes", r"megatron_bridge_recipes: of (\d+) rows, theirs is the best in (\d+) and within 10 % of it in (\d+)"
    )
    fsdp = [
        _numbers("real-fsdp", rf"{wire}, torch-gloo: mean error ([\d.]+)%, worst ([\d.]+)%, (\d+) cases")
        for wire in ("200Mbit/s@0.1ms", "100Mbit/s@0.1ms")
    ]
    cases = sum(one[2] for one in fsdp)
    peaks = _numbers("fsdp-memory", r"(\d+) cases: mean [\d.]+%, worst ([\d.]+)%")
    return [
        (
            f"steps that others published, replayed in one command: {found['figures']} figures of {found['count']}"
            f" files, Megatron-LM,"
            " Zero Bubble, torchtitan, SimuMax, ...",
            f"mean error of a file {_range(found['files'])}; operator by operator on one device"
            f" {_whole(found['one device'])},"
            f" torchtitan {_whole(found['torchtitan'])}, mixtures of experts {_whole(found['experts'])}; peak memory"
            f" {_range(found['memory'])}",
            "[published](published.md)",
        ),
        (
            "tokens a second of configurations that people tuned themselves, their exchanges laid on links; theirs"
            " in our ranking",
            f"{judging} rows that judge: dense models mean {_one(dense)} (Megatron-Bridge {_one(bridge)}, Megatron-LM"
            f" {_one(100 * _mean(map(abs, megatron)))}); mixtures of experts {_whole(experts)}, torchtitan with cp >"
            f" 1 {_whole(long)};"
            f" of Megatron-Bridge's {bridged[0]:.0f} theirs is our best in {bridged[1]:.0f} and within 10 % of it in"
            f" {bridged[2]:.0f}, of all {sum(one[0] for one in theirs)} ranked in {sum(one[2] for one in theirs)}",
            "[recipes](recipes.md)",
        ),
        (
            "FSDP by PyTorch's own `fully_shard`, on real links; its memory",
            f"{cases:.0f} steps: mean {_one(sum(one[0] * one[2] for one in fsdp) / cases)}, worst"
            f" {_one(max(one[1] for one in fsdp))};"
            " collectives in kind, number, bytes and order as PyTorch's;"
            f" {peaks[0]:.0f} peaks within {_one(peaks[1])}",
            "[real-fsdp](real-fsdp.md), [fsdp-memory](fsdp-memory.md)",
        ),
    ]


def _formulas() -> list[Row]:
    """Return what is known exactly."""
    given = _numbers("zero-bubble", r"(\d+) of (\d+) rates are the printed ones")
    chosen = _numbers("zero-bubble", r"of (\d+) rows mpsim's own scheduler gives (\d+) equal")
    splits = _numbers("peer-splits", r"(\d+) of (\d+) rows, the worst ([\d.]+) % off")
    return [
        (
            "GPipe, 1F1B and interleaved 1F1B on an ideal network, ring all-reduce, against their formulas; orders"
            " of seven"
            " schedules against torch's own",
            "equal to the bit, every p up to 16, m up to 64 and v up to 4",
            "[schedules](schedules.md), `tests/simulation/`, `tests/lowering/`, `tests/plan/`",
        ),
        (
            "bubble rates of the zero-bubble paper, from the times that it profiled",
            f"{given[0]:.0f} of {given[1]:.0f} to four digits where its authors fixed the order; ours against their"
            f" scheduler's"
            f" {chosen[1]:.0f} of {chosen[0]:.0f} equal, one 0.0011 behind",
            "[zero-bubble](zero-bubble.md)",
        ),
        (
            f"ASTRA-sim's analytical model: {splits[1]:.0f} training steps, 344 collectives",
            f"{splits[0]:.0f} within {splits[2]:g} %, 202 contention-free ones within 0.15 %; the others explained",
            "[peer-splits](peer-splits.md), [peer-collectives](peer-collectives.md)",
        ),
    ]


def _networks() -> list[Row]:
    """Return what calibration and rooflines make of other machines."""
    nccl = "[nccl-validation](nccl-validation.md)"
    layers, models = (
        _numbers("rescaling", rf"Over all {count}: rooflines (\d+)% in the mean")[0] for count in (122, 46)
    )
    plain, calibrated = _numbers("rescaling", r"\*\*mean\*\* \| \| \*\*([\d.]+) %\*\* \| \*\*([\d.]+) %\*\*")
    return [
        (
            "collectives that others measured with NCCL on A100 and H100 nodes, calibrated by half of the sizes or"
            " by other"
            " numbers of GPUs",
            "mean 4 to 5 %; a PCIe box 8 and 18 %; several nodes from one alone 6 to 136 %",
            nccl,
        ),
        (
            "the same by presets as they are",
            "H100: one node 4 and 8 %, two 25 %, eight 2 and 53 %; one A100 node 48 %; clouds whose networks nobody"
            " published"
            " 38 and 57 %",
            nccl,
        ),
        (
            "another device, by the ratio of rooflines, on published layers and models",
            f"weak: mean {layers:.0f} and {models:.0f} %; 3 to 39 % within or next to a generation, 24 to 175 % from"
            f" or to a V100"
            " or an RTX card",
            "[rescaling](rescaling.md)",
        ),
        (
            "Megatron-LM on 64 to 512 A100, roofline costs, one smaller model calibrating the device's speed",
            f"mean {_one(calibrated)}, worst 2.7 % (uncalibrated {_one(plain)})",
            "[rescaling](rescaling.md)",
        ),
    ]


def _real() -> list[Row]:
    """Return what real runs say."""
    replayed, scheduled = _rows("validation-replayed"), _rows("real-schedules")
    sharp, judged = (
        summarize(replayed),
        summarize([one for one in scheduled if real_schedules.name_of(one) in real_schedules.JUDGED]),
    )
    real, others = summarize(_rows("validation-real")), summarize(_rows("validation-real-others"))
    rest = summarize([one for one in scheduled if real_schedules.name_of(one) not in real_schedules.JUDGED])
    gloo = load_rows(DOCS / "data" / "validation-collectives.csv", Exchanged)
    middle = sorted(abs(one.error_fraction) for one in gloo)[len(gloo) // 2]
    large = max(abs(one.error_fraction) for one in gloo if one.bytes >= 2**20)
    torch_schedules = {
        name: _numbers("torch-schedules", rf"{name}: mean error ([\d.]+)%, worst ([\d.]+)%, {count} cases")
        for name, count in (("torch-gloo", 16), ("ideal", 16))
    }
    weak = _numbers("torch-schedules", r"torch-gloo: mean error ([\d.]+)%, worst ([\d.]+)%, 20 cases")
    assert sharp and judged and real and others and rest  # noqa: PT018
    return [
        (
            f"**{sharp.count} real runs**, 3 models, every kind of plan, 2 and 4 processes, 100 Mbit/s to 1 Gbit/s,"
            f" computation slept",
            f"runtime `torch-gloo`: mean {_one(100 * sharp.mean_fraction)}, worst"
            f" {_one(100 * sharp.worst_fraction)}; rank"
            f" correlation of plans {_least_order('validation-replayed'):.3f} and more (`ideal`: mean"
            f" {_one(100 * sharp.ideal_mean_fraction)}, worst {_one(100 * sharp.ideal_worst_fraction)})",
            "[validation](validation.md)",
        ),
        (
            f"{real.count} and {others.count} real runs, computation really done by two processes, each set run"
            f" three times, the last"
            f" one kept; of the {others.count} nobody had seen the models before",
            f"mean 4.0, 6.2 and {_one(100 * real.mean_fraction)}, 5.8, 3.6 and {_one(100 * others.mean_fraction)};"
            f" worst 21.0 %; rank"
            " correlation of 3 to 5 close plans 0.2 to 1",
            "[validation](validation.md)",
        ),
        (
            f"{judged.count} such runs of six schedules, interleaved, zero-bubble, V-shaped and rows of one's own"
            f" among them;"
            f" {rest.count} others once each",
            f"mean {_one(100 * judged.mean_fraction)}, worst {_one(100 * judged.worst_fraction)}; the others"
            f" {_both((100 * rest.mean_fraction, 100 * rest.worst_fraction))} (`ideal`:"
            f" {_both((100 * judged.ideal_mean_fraction, 100 * judged.ideal_worst_fraction))})",
            "[real-schedules](real-schedules.md)",
        ),
        (
            "PyTorch's own looped, zero-bubble and V-shaped classes over such links, 20 cases",
            f"weak: mean {_one(weak[0])}, worst {_one(weak[1])}, all too short: PyTorch's own time between"
            f" operations is not modelled",
            "[torch-schedules](torch-schedules.md)",
        ),
        (
            "PyTorch's own `ScheduleGPipe` and `Schedule1F1B` over such links, 16 cases",
            f"`torch-gloo`: mean {_one(torch_schedules['torch-gloo'][0])}, worst"
            f" {_one(torch_schedules['torch-gloo'][1])}"
            f" (`ideal`: {_both(torch_schedules['ideal'])})",
            "[torch-schedules](torch-schedules.md)",
        ),
        (
            f"{len(gloo)} all-reduces by gloo, 2 to 8 ranks, 1 KiB to 64 MiB",
            f"median {_one(100 * middle)}; of 1 MiB and more within {_up(100 * large)} %, smaller ones mostly within"
            f" 30 %, one three"
            " times too long",
            "[validation](validation.md)",
        ),
    ]


# What the rows, traces and pages say.


def _published() -> dict[str, object]:
    """Return the mean errors, in percent, of the files of published steps: of those that stand apart by their names."""
    files = published.again().files
    apart = {("neusight_measured", "one device"): "one device", ("torchtitan", "time"): "torchtitan",
             ("megatron_bridge_recipes", "time of experts"): "experts"}  # fmt: skip
    means = {(one.file, one.what): 100 * one.mean_fraction for one in files if one.mean_fraction is not None}
    return {
        "figures": sum(one.judges for one in published.again().outcomes),
        "count": len({one.file for one in files}),
        "files": [mean for key, mean in means.items() if key not in apart and key[1] != "memory"],
        "memory": [mean for key, mean in means.items() if key[1] == "memory"],
        **{name: means[key] for key, name in apart.items()},
    }


def _recipes(group: str) -> tuple[int, float]:
    """Return how many rows of a group of recipes there are, and their mean error in percent."""
    count, mean = _numbers("recipes", rf"{re.escape(group)}: (\d+) rows, mean ([\d.]+) %")
    return int(count), mean


@cache
def _judged() -> Sequence[Judged]:
    return load_rows(DOCS / "data" / "recipes.csv", Judged)


@cache
def _rows(name: str) -> Sequence[Comparison]:
    return load_rows(DOCS / "data" / f"{name}.csv", Comparison)


def _least_order(name: str) -> float:
    """Return the least rank correlation of the plans of a model over a link."""
    rows = tuple(_rows(name))
    return min(order for _, order, _ in Validation(rows=rows, planned=len(rows)).orders.values())


@cache
def _step_rows() -> Sequence[object]:
    return validate_steps(load_steps(COMMITTED))


def _steps() -> dict[str, tuple[float, float]]:
    """Return the mean and the worst error, in percent, of the steps of one device, by what is compared."""
    return {one.name: (100 * one.mean_fraction, 100 * one.worst_fraction) for one in summarize_steps(_step_rows())}


@cache
def _cpu_workloads() -> tuple[mpsim.Workload, ...]:
    return tuple(map(mpsim.load_workload, sorted((ROOT / "workloads").glob("*.cpu.json"))))


@cache
def _text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def _numbers(name: str, pattern: str) -> tuple[float, ...]:
    """Return the numbers that a page has where a pattern has groups."""
    found = re.search(pattern, _text(name))
    if found is None:
        raise ValueError(f"docs/{name}.md no longer says {pattern!r}: say here what it does")
    return tuple(map(float, found.groups()))


# Numbers as they are written.


def _mean(values: Iterable[float]) -> float:
    found = [*values]
    return sum(found) / len(found)


def _one(value: float) -> str:
    return f"{value:.1f} %"


def _whole(value: float) -> str:
    return f"{value:.0f} %"


def _up(value: float) -> str:
    """Write a bound that holds."""
    return f"{-(-value // 1):.0f}"


def _both(values: Sequence[float]) -> str:
    return f"{values[0]:.1f} and {values[1]:.1f} %"


def _range(values: Sequence[float], digits: int = 1) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f} %"


def main() -> None:
    (DOCS / "trust.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
