"""The tables of a report: each cell as it is read, and as it is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mpsim.explanation.model import Part, WhatIf
from mpsim.report.material import Material
from mpsim.report.rebuild import said_without_stages
from mpsim.result.model import DeviceUse, Result
from mpsim.result.statistics import interval
from mpsim.result.text import format_percent, short_plan
from mpsim.search.rates import Rates
from mpsim.sweeps.model import Row
from mpsim.units import format_bytes, format_duration

__all__ = [
    "Cell",
    "Table",
    "devices_table",
    "parts_table",
    "plans_table",
    "real_table",
    "short_count",
    "what_ifs_table",
]

_MOST_DEVICES = 32


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says, what it sorts by (None: by what it says), all of what it says in short, and a bar's length.

    `part` is what of a whole a bar in the cell stands for, -1 to 1; None: the cell has none.
    """

    text: str
    value: float | None = None
    whole: str = ""
    part: float | None = None
    doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Headings with the key that they sort by and whether they are of numbers, and rows of cells."""

    name: str
    caption: str
    columns: tuple[tuple[str, str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]


_Column = tuple[str, str, bool, Callable[[Row], Cell]]


def _plan(text: str) -> Cell:
    short = short_plan(text)
    return Cell(short, whole=text if text != short else "")


def _number(value: float | None, form: str, factor: float = 1.0) -> Cell:
    return Cell("", None) if value is None else Cell(form.format(value * factor), float(value))


def _percent(value: float | None) -> Cell:
    return Cell("", None) if value is None else Cell(format_percent(value), float(value))


def _tokens_per_s(rates: Rates, row: Row) -> float | None:
    tokens = rates.tokens or row["tokens_per_sample"]
    return tokens * row["global_batch"] / row["step_s"] if tokens and row["step_s"] else None


def plans_table(material: Material, rows: Sequence[Row], name: str, caption: str) -> Table:
    """Return plans, the columns of which something is known."""
    rates, best = material.rates, material.best
    first_s = best["step_s"] if best else None

    def slower(row: Row) -> Cell:
        return _percent(row["step_s"] / first_s - 1 if first_s and row["rank"] else None)

    columns: list[_Column] = [
        ("rank", "rank", True, lambda row: Cell(f"{row['rank'] or ''}{'=' if row['tie'] else ''}", row["rank"])),
        ("devices", "devices", True, lambda row: Cell(f"{row['n_devices']:,.0f}", row["n_devices"])),
        ("step", "step", True, lambda row: Cell(format_duration(row["step_s"]), row["step_s"])),
        ("plan", "plan", False, lambda row: _plan(row["plan"])),
        ("slower", "slower by", True, slower),
        ("speedup", "speedup", True, lambda row: _number(row["speedup"], "{:.2f}x")),
        ("tokens", "tokens/s", True, lambda row: _number(_tokens_per_s(rates, row), "{:,.0f}")),
        ("flops", "TFLOP/s a device", True, lambda row: _number(rates.flops_per_s(row), "{:,.1f}", 1e-12)),
        ("mfu", "MFU", True, lambda row: _percent(rates.mfu(row))),
        ("communication", "communication", True, lambda row: _percent(row["communication_overhead_fraction"])),
        ("bubble", "bubble", True, lambda row: _percent(row["bubble_fraction"])),
        ("memory", "peak memory", True, _memory),
        ("fits", "fits", False, lambda row: _verdict(row["fits"])),
        ("price", _price_heading(rates), True, lambda row: _money(rates, row)),
        ("fidelity", "fidelity", False, lambda row: Cell(row["fidelity"] or "")),
    ]
    if not any(_tokens_per_s(rates, row) for row in rows):
        columns.insert(6, ("samples", "samples/s", True, _samples))
    return _table(name, caption, columns, [row for row in rows if row["step_s"] is not None])


def _samples(row: Row) -> Cell:
    return _number(row["throughput_samples_per_s"], "{:,.4g}")


def _verdict(fits: bool | None) -> Cell:
    return Cell({True: "yes", False: "NO", None: "?"}[fits], doubt=fits is False)


def _memory(row: Row) -> Cell:
    count = row["highest_peak_memory_bytes"]
    return Cell("", None) if count is None else Cell(format_bytes(count), count)


def _price_heading(rates: Rates) -> str:
    return f"for {short_count(rates.train_tokens)} tokens" if rates.train_tokens else "a step costs"


def short_count(count: int) -> str:
    """Return a number of tokens as people say it, where that is all of it.

    Examples
    --------
    >>> short_count(15 * 10**12), short_count(4_194_304)
    ('15T', '4,194,304')
    """
    for letter, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if count >= size and count % (size // 10) == 0:
            return f"{count / size:g}{letter}"
    return f"{count:,}"


def _money(rates: Rates, row: Row) -> Cell:
    amount = rates.money(row)
    return Cell("") if amount is None or rates.price is None else Cell(rates.price.text(amount), amount)


def _table(name: str, caption: str, columns: Sequence[_Column], rows: Sequence[Row]) -> Table:
    cells = [[make(row) for *_, make in columns] for row in rows]
    used = [i for i in range(len(columns)) if any(row[i].text.strip() for row in cells)]
    fidelity = next((i for i in used if columns[i][0] == "fidelity"), None)
    if fidelity is not None and len({row[fidelity].text for row in cells}) == 1:
        used.remove(fidelity)  # said above the table
    return Table(
        name=name,
        caption=caption,
        columns=tuple(columns[i][:3] for i in used),
        rows=tuple(tuple(row[i] for i in used) for row in cells),
    )


def devices_table(result: Result) -> Table:
    """Return what each device that differs does of the step, and holds; of many those that hold most."""
    devices = _alike(result.devices)
    found = len(devices)
    if len(devices) > _MOST_DEVICES:
        devices = sorted(devices, key=lambda one: -one.memory.peak_bytes)[:_MOST_DEVICES]
    known = result.made_by == "simulate" or any(result.peak_memory_bytes)
    columns: list[tuple[str, str, bool]] = [("device", "device", False), ("compute", "computes", True)]
    columns += [("communication", "exposed communication", True), ("launch", "exposed launch", True)]
    columns += [("idle", "idle", True)]
    columns += [("memory", "peak memory", True), ("capacity", "capacity", True)] if known else []
    rows = [tuple(_device_cells(one, result.step_s, known)) for one in devices]
    if not any(one.exposed_launch_s for one in devices):
        columns = [column for column in columns if column[0] != "launch"]
        rows = [(*row[:3], *row[4:]) for row in rows]
    more = "" if len(devices) == found else f", the {len(devices)} that hold most"
    caption = f"Each device of the best plan that differs{more}: parts of its step, and what it holds at most"
    return Table(name="devices", caption=caption, columns=tuple(columns), rows=tuple(rows))


def _alike(devices: Sequence[DeviceUse]) -> Sequence[DeviceUse]:
    """Return devices of which those that do and hold the same are one, which stands for all of them."""
    groups: dict[DeviceUse, list[DeviceUse]] = {}
    for one in devices:
        groups.setdefault(replace(one, name="", count=1), []).append(one)
    return [replace(group[0], count=sum(one.count for one in group)) for group in groups.values()]


def _device_cells(device: DeviceUse, step_s: float, known: bool) -> Iterable[Cell]:
    yield Cell(device.label)
    parts = (device.compute_s, device.exposed_communication_s, device.exposed_launch_s, device.idle_s)
    for seconds in parts:
        yield Cell(format_percent(seconds / step_s) if step_s else "", seconds)
    if known:
        peak, capacity = device.memory.peak_bytes, device.capacity_bytes
        part = peak / capacity if capacity else None
        yield Cell(format_bytes(peak), peak, part=part, doubt=device.fits is False)
        yield Cell(format_bytes(capacity) if capacity else "?", capacity or None)


def parts_table(parts: Sequence[Part], step_s: float) -> Table:
    """Return where the step goes: parts that add up to it."""
    rows = [
        (
            Cell(part.label),
            Cell(format_duration(part.seconds), part.seconds),
            Cell(format_percent(part.seconds / step_s), part.seconds, part=part.seconds / step_s),
        )
        for part in parts
        if step_s
    ]
    columns = (("part", "part", False), ("time", "time", True), ("share", "of the step", True))
    return Table(
        name="parts", caption="Of the mean device; the parts add up to the step", columns=columns, rows=tuple(rows)
    )


def what_ifs_table(what_ifs: Sequence[WhatIf]) -> Table:
    """Return what the step would take with one thing changed."""
    rows = []
    for one in what_ifs:
        gain = one.gain_fraction
        detail = one.detail if one.step_s is not None else f"cannot be run: {one.reason}"
        rows.append(
            (
                Cell(one.name),
                Cell("" if one.step_s is None else format_duration(one.step_s), one.step_s),
                Cell("" if gain is None else _gain(gain), gain, part=gain),
                Cell("") if one.step_s is None else _verdict(one.fits),
                Cell(detail),
            )
        )  # fmt: skip
    columns = (
        ("change", "change", False), ("step", "step", True), ("gain", "a sample takes", True), ("fits", "fits", False),
        ("detail", "how", False),
    )  # fmt: skip
    caption = "The step simulated again with one thing changed, the most gained first"
    return Table(name="what-ifs", caption=caption, columns=columns, rows=tuple(rows))


def _gain(gain: float) -> str:
    if abs(gain) < 5e-4:
        return "as long"
    return f"{format_percent(abs(gain))} {'less' if gain > 0 else 'more'}"


def real_table(material: Material) -> Table | None:
    """Return what was run beside what was predicted for the same plan; None where nothing was run."""
    if not material.real:
        return None
    rows = []
    for real in material.real:
        over = interval(real)
        row = next((one for one in material.sweep.rows if _is_of(one, real)), None)
        same = row is not None and row["topology"] == real.topology and row["step_s"]
        error = row["step_s"] / over.median_s - 1 if same and row is not None and over.median_s else None
        why = "" if same else "no such plan here" if row is None else f"ran on {real.topology}: not comparable"
        spread = f"{format_duration(over.low_s)} to {format_duration(over.high_s)}" if over.width_s else ""
        rows.append(
            (
                _plan(real.plan),
                Cell(format_duration(row["step_s"]), row["step_s"]) if row is not None and same else Cell("", None),
                Cell(format_duration(over.median_s), over.median_s),
                Cell(spread),
                Cell(f"{'+' if error >= 0 else ''}{format_percent(error)}", error) if error is not None else Cell(why),
                Cell(f"{real.runtime}, {len(real.trial_step_s):,} steps{_other_runtime(row, real) if same else ''}"),
            )
        )  # fmt: skip
    columns = (
        ("plan", "plan", False), ("predicted", "predicted", True), ("measured", "measured", True),
        ("spread", "5-95 % of steps", False), ("error", "predicted over measured", True), ("run", "run", False),
    )  # fmt: skip
    return Table(name="real", caption="Steps that were run, beside those predicted", columns=columns, rows=tuple(rows))


def _is_of(row: Row, real: Result) -> bool:
    same = row["workload"] == real.workload and row["global_batch"] == real.global_batch and row["made_by"] != "emulate"
    plans = [row["plan"], real.plan]
    if not all("stages=" in plan for plan in plans):  # where one leaves its stages open
        plans = [said_without_stages(plan) for plan in plans]
    return bool(same and plans[0] == plans[1])


def _other_runtime(row: Row | None, real: Result) -> str:
    if row is None or row["runtime"] == real.runtime:
        return ""
    return f"; predicted for {row['runtime']}"
