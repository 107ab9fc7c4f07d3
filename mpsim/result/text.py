"""A result as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mpsim.calls import checked
from mpsim.result.model import DeviceUse, Result
from mpsim.result.once import once
from mpsim.result.statistics import interval, quantile
from mpsim.tables import Text, align_rows, facts, joined
from mpsim.units import format_bytes, format_duration

__all__ = [
    "batch_of",
    "caution",
    "device_of",
    "device_rows",
    "facts_of",
    "fidelity_words",
    "format_percent",
    "format_tflops",
    "short_notes",
    "short_plan",
    "summary",
]

MOST_DEVICES = 16  # A table of more says less than its extremes.
_MOST_CAVEATS = 3  # Of more, a line says that there are more.
_MOST_PLACE = 24  # letters
_ALONE = frozenset(f"{name}=1" for name in ("dp", "pp", "tp", "cp", "ep", "micro-batches"))

_FIDELITY = {
    "measured": "every layer time was measured at the size used",
    "interpolated": "some layer times lie between measured sizes",
    "scaled": "some layer times stand for another device than they were measured on",
    "analytical": "some layer times are a roofline estimate, not a measurement",
    "given": "some times were given by hand, not measured",
    "doubtful": "the trace is not the step that was measured beside it",
}


def format_percent(fraction: float) -> str:
    """Write a fraction for people.

    Examples
    --------
    >>> format_percent(0.0142), format_percent(0.5), format_percent(0)
    ('1.4 %', '50.0 %', '0.0 %')
    """
    # Adding 0.0 turns the -0.0 of a rounded-away negative into 0.0.
    return f"{round(100 * fraction, 1) + 0.0:.1f} %"


def fidelity_words(fidelity: str) -> str:
    """Return what a fidelity means.

    Examples
    --------
    >>> fidelity_words("given")
    'some times were given by hand, not measured'
    """
    return _FIDELITY.get(fidelity, "unknown to this version")


@checked
def summary(result: Result | str | Path) -> Text:
    """Return what a result says, for a terminal.

    Devices of which it says the same stand in one row; of more than 16 rows, the lowest, median and highest of each
    column.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5,
    ...                 trials=8, deterministic=True)
    >>> print(summary(result))
    mlp | pp=2 | pair
    <BLANKLINE>
    step            2 s
    communication   500 ms of the step (25.0 %); on an ideal network (infinitely fast) it takes 1.5 s
    trials          nothing random: one replay stands for all 8 trials
    fidelity        given: some times were given by hand, not measured
    runtime         ideal
    """
    result = Result.of(result)
    head = f"{result.workload} | {result.plan} | {result.topology}{batch_of(result)}"
    blocks = [caution(result.caveats) + head, facts(facts_of(result))]
    blocks += [align_rows(_traffic_rows(result))] if result.traffic else []
    blocks += [align_rows(device_rows(result), spare=_SPARE)] if result.devices else []
    beyond = [count for count in result.traffic if count.beyond]
    blocks += [
        f"warning: {count.beyond:,} of {count.transfers:,} {count.kind} are of sizes or over ranks that the topology's"
        " costs were not measured for: extrapolated"
        for count in beyond
    ]
    blocks += [f"caution: {text}" for text in once(result.caveats)[_MOST_CAVEATS:]]
    blocks += ["\n".join(short_notes(result.notes))] if result.notes else []
    return joined("\n\n", blocks)


def facts_of(result: Result) -> list[tuple[str, str]]:
    """Return what is said of a step by name; "" of what is not known.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> facts_of(result)[0]
    ('step', '2 s')
    """
    return [
        ("step", _step(result)),
        ("back to back", _steady(result)),
        ("throughput", _throughput(result)),
        ("speedup", _speedup(result)),
        ("utilization", _utilization(result)),
        ("communication", _communication(result)),
        ("mean device", _mean_device(result)),
        ("memory", _memory(result)),
        ("trials", _trials(result)),
        ("fidelity", f"{result.fidelity}: {fidelity_words(result.fidelity)}"),
        device_of(result.fidelity, result.measured_on),
        ("runtime", _runtime(result)),
    ]


def device_of(fidelity: str, device: str) -> tuple[str, str]:
    """Return of what device the layer times of a result are, and how they were come by in a word or two.

    Examples
    --------
    >>> device_of("measured", "NVIDIA H200"), device_of("analytical", "H200-SXM-141GB"), device_of("given", "given")
    (('measured on', 'NVIDIA H200'), ('computed for', 'H200-SXM-141GB'), ('given for', ''))
    """
    how = {"analytical": "computed for", "given": "given for"}.get(fidelity, "measured on")
    return how, "" if device == "given" else device


def short_plan(text: str) -> str:
    """Return a plan's text without the parts that are 1, and without a long list of devices.

    Examples
    --------
    >>> short_plan("dp=8 pp=1 tp=2 micro-batches=4"), short_plan("dp=1 pp=1 tp=1 micro-batches=1")
    ('dp=8 tp=2 micro-batches=4', 'one device')
    >>> short_plan("dp=4 pp=2 place=0,4,1,5,2,6,3,7"), short_plan("pp=9 place=0,1,2,3,4,5,6,8,7,9,10,11")
    ('dp=4 pp=2 place=0,4,1,5,2,6,3,7', 'pp=9 place=…')
    """
    words = [word for word in text.split() if word not in _ALONE]
    words = ["place=…" if word.startswith("place=") and len(word) > _MOST_PLACE else word for word in words]
    return " ".join(words) or "one device"


def batch_of(result: Result) -> str:
    """Return what a step depends on and the text of its plan does not say, as it stands behind that in a first line.

    Examples
    --------
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> batch_of(replace(result, global_batch=4096)), batch_of(result)
    (' | batch 4,096', '')
    """
    return f" | batch {result.global_batch:,}" if result.global_batch else ""


def format_tflops(flops_per_s: float) -> str:
    """Write FLOP/s for people, in 10^12.

    Examples
    --------
    >>> format_tflops(38.44e12), format_tflops(2.4e8)
    ('38.4', '0.00024')
    """
    rate = flops_per_s / 1e12
    return f"{rate:,.1f}" if rate >= 1 else f"{rate:.3g}"


def caution(caveats: Sequence[str], most: int = _MOST_CAVEATS) -> str:
    """Return the line that comes before all others where something may make an answer wrong, each thing once.

    Examples
    --------
    >>> caution(["analytical: rooflines of T4, not measurements"]), caution([])
    ('caution: analytical: rooflines of T4, not measurements\\n', '')
    """
    told = once(caveats)
    more = [f"and {len(told) - most} more"] if len(told) > most else []
    return f"caution: {'; '.join([*told[:most], *more])}\n" if told else ""


def short_notes(notes: Sequence[str], most: int = 3) -> list[str]:
    """Return what a trace has to say, a line each, each thing once, and no more than a few.

    Examples
    --------
    >>> short_notes(["a cache dropped"])
    ['note: a cache dropped']
    """
    told = once(notes)
    lines = [f"note: {text if len(text) <= 160 else text[:159] + '…'}" for text in told[:most]]
    return [*lines, f"note: and {len(told) - most} more; mpsim show has them"] if len(told) > most else lines


def _step(result: Result) -> str:
    over = interval(result)
    text = format_duration(result.step_s)
    if over.width_s:
        text += f"; 5-95 % of trials within {format_duration(over.low_s)} to {format_duration(over.high_s)}"
    return text


def _steady(result: Result) -> str:
    """Return the step of many, where hosts that run ahead make it another than one alone."""
    return f"{format_duration(result.steady_s or 0.0)} a step" if _apart(result) else ""


def _throughput(result: Result) -> str:
    if not result.global_batch:
        return ""
    tokens = result.throughput_tokens_per_s
    more = f", {tokens:,.0f} tokens/s" if tokens else ""
    return f"{result.throughput_samples_per_s:,.4g} samples/s{more} (global batch {result.global_batch})"


def _utilization(result: Result) -> str:
    rate, part = result.device_flops_per_s, result.mfu_fraction
    if rate is None:
        return ""
    mfu = f", MFU {format_percent(part)} of {result.peak_flops_per_s / 1e12:,.4g}" if part else ""
    return f"{format_tflops(rate)} TFLOP/s a device{mfu}"


def _speedup(result: Result) -> str:
    if result.speedup is None:
        return ""
    return f"{result.speedup:.2f}x over {result.baseline} ({format_duration(result.baseline_step_s)})"


def _communication(result: Result) -> str:
    overhead_s, fraction = result.communication_overhead_s, result.communication_overhead_fraction
    if result.free_step_s is None or overhead_s is None or fraction is None:
        return ""
    return (
        f"{format_duration(overhead_s)} of the step ({format_percent(fraction)});"
        f" on an ideal network (infinitely fast) it takes {format_duration(result.free_step_s)}"
    )


def _mean_device(result: Result) -> str:
    whole = result.step_s * result.n_devices
    if not whole:
        return ""
    sums: dict[str, float] = {}
    for device in result.devices:
        idle = {"idle": device.idle_s}
        if device.bubble_s is not None:
            # Where transfers fill part of the bubble, the idle part of it is all that can be listed beside them.
            bubble_s = min(device.bubble_s, device.idle_s)
            idle = {"idle in the bubble": bubble_s, "idle behind transfers": device.idle_s - bubble_s}
        parts = {"compute": device.compute_s, "exposed communication": device.exposed_communication_s}
        parts |= ({"exposed launch": device.exposed_launch_s} if result.launch == "eager" else {}) | idle
        sums |= {name: sums.get(name, 0.0) + device.count * seconds for name, seconds in parts.items()}
    return ", ".join(f"{name} {format_percent(seconds / whole)}" for name, seconds in sums.items())


def _memory(result: Result) -> str:
    if not result.devices or not _knows_memory(result):
        return ""
    known = [device for device in result.devices if device.capacity_bytes]
    # The device that decides is the one nearest to its own capacity, not the one that holds most.
    worst = (
        max(known, key=lambda device: device.memory.peak_bytes / device.capacity_bytes)
        if known
        else max(result.devices, key=lambda device: device.memory.peak_bytes)
    )
    peak, capacity = format_bytes(worst.memory.peak_bytes), format_bytes(worst.capacity_bytes)
    if result.fits is None:
        return f"peak {peak} ({worst.name}); capacity unknown, so nothing is said about fitting"
    if result.fits:
        return f"fits: peak {peak} of {capacity} ({worst.name})"
    over = sum(device.count * (device.fits is False) for device in result.devices)
    return f"DOES NOT FIT: {worst.name} needs {peak}, has {capacity} ({over} of {result.n_devices} devices over)"


def _knows_memory(result: Result) -> bool:
    """Whether its bytes say anything: of a real run nobody counted them."""
    return result.made_by == "simulate" or any(result.peak_memory_bytes)


def _trials(result: Result) -> str:
    if result.deterministic and result.trials == 1:
        return "1, every time at its median"
    if result.deterministic:
        return f"nothing random: one replay stands for all {result.trials:,} trials"
    return f"{len(result.trial_step_s):,} {'run' if result.made_by == 'emulate' else 'replayed'}"


def _runtime(result: Result) -> str:
    return result.runtime if result.made_by == "simulate" else f"{result.runtime} (a real run)"


def _traffic_rows(result: Result) -> list[list[str]]:
    rows = [["axis", "traffic", "transfers", "payload", "on links"]]
    for count in result.traffic:
        payload, links = format_bytes(count.payload_bytes), format_bytes(count.link_bytes)
        rows.append(
            [
                count.axis or "-",
                " ".join(filter(None, (count.kind, count.algorithm))),
                f"{count.transfers:,}",
                payload,
                links,
            ]
        )
    return rows


# name, value of a device, how it is written
_Column = tuple[str, Callable[[DeviceUse], float], Callable[[float], str]]
_COLUMNS: tuple[_Column, ...] = (
    ("compute", lambda device: device.compute_s, format_duration),
    ("exposed comm.", lambda device: device.exposed_communication_s, format_duration),
    ("exposed launch", lambda device: device.exposed_launch_s, format_duration),
    ("idle", lambda device: device.idle_s, format_duration),
    ("bubble", lambda device: device.bubble_s or 0.0, format_duration),
    ("peak memory", lambda device: device.memory.peak_bytes, format_bytes),
    ("capacity", lambda device: device.capacity_bytes, lambda count: format_bytes(count) if count else "?"),
)


_SPARE = ("capacity", "exposed launch", "bubble")  # what a narrow terminal can be without, the least needed first


def _columns(result: Result) -> list[_Column]:
    """Return the columns of which something is known."""
    unknown = {"bubble"} if any(device.bubble_s is None for device in result.devices) else set()
    unknown |= set() if result.launch == "eager" else {"exposed launch"}
    if not _knows_memory(result):
        unknown |= {"peak memory", "capacity"}
    return [column for column in _COLUMNS if column[0] not in unknown]


def device_rows(result: Result) -> list[list[str]]:
    """Return a heading and a row for devices that are alike, or of many the lowest, the median and the highest."""
    if not result.devices:
        return []
    columns = _columns(result)
    names = [name for name, _, _ in columns]
    alike: dict[tuple[str, ...], list[DeviceUse]] = {}
    for device in result.devices:
        alike.setdefault(tuple(write(of(device)) for _, of, write in columns), []).append(device)
    if len(alike) <= MOST_DEVICES:
        return [["device", *names], *([_label(devices), *cells] for cells, devices in alike.items())]
    # Each column is summarised by itself: a row here is no device.
    rows = []
    for label, fraction in (("lowest", 0.0), ("median", 0.5), ("highest", 1.0)):
        cells = (
            write(quantile([x for device in result.devices for x in [of(device)] * device.count], fraction))
            for _, of, write in columns
        )
        rows.append([label, *cells])
    return [[f"{result.n_devices} devices", *names], *rows]


def _label(devices: Sequence[DeviceUse]) -> str:
    """Return the name of the first of some devices of which a table says the same, and how many they are."""
    return replace(devices[0], count=sum(device.count for device in devices)).label


def _apart(result: Result) -> bool:
    """Whether steps back to back take another time than one alone."""
    return result.steady_s is not None and abs(result.steady_s - result.step_s) > 1e-3 * result.step_s
