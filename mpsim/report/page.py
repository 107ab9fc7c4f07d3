"""The page: one file with all that it needs, that asks nothing of any network and runs no script but its own."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from mpsim.errors import MpsimError
from mpsim.files import read_text, stream_of, write_text
from mpsim.report.cluster import cluster
from mpsim.report.markup import plain
from mpsim.report.material import Material
from mpsim.report.memory import memory
from mpsim.report.scaling import scaling
from mpsim.report.tables import devices_table, parts_table, plans_table, real_table, short_count, what_ifs_table
from mpsim.report.timeline import timeline
from mpsim.report.trust import provenance, trust
from mpsim.result.model import Result
from mpsim.result.text import device_of, format_percent, short_plan
from mpsim.sweeps.model import Row
from mpsim.topology.show import draw
from mpsim.units import format_bytes, format_duration

__all__ = ["check_page", "page", "save_report"]

_ASSETS = Path(__file__).parent / "assets"
_MOST_REASONS = 5


def check_page(path: str | Path) -> None:
    """Refuse a file whose suffix is that of no page, before anything is computed.

    Raises
    ------
    MpsimError
        Its suffix is another.

    Examples
    --------
    >>> check_page("report.pdf")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: cannot write a page to 'report.pdf': its suffix is '.pdf', expected .html
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".html", ".htm") and stream_of(path) is None:
        raise MpsimError(f"cannot write a page to {str(path)!r}: its suffix is {suffix!r}, expected .html")


def save_report(path: str | Path, material: Material, *, top: int = 100) -> None:
    """Write a report, whole or not at all.

    Raises
    ------
    MpsimError
        The file cannot be written there, or its suffix is that of no page.
    """
    check_page(path)
    write_text(path, page(material, top=top))


def page(material: Material, *, top: int = 100) -> str:
    """Return a report as a page: the same material makes the same page.

    Parameters
    ----------
    material : Material
        What is known.
    top : int
        Plans in the ranked table.

    Examples
    --------
    >>> from mpsim.report.gather import rows_of_results
    >>> from mpsim.result.model import Result
    >>> result = Result(workload="<b>", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> found = page(Material(sweep=rows_of_results([result])))
    >>> "&lt;b&gt;" in found, "<b>" in found
    (True, False)
    """
    return _environment().get_template("report.html").render(_said(material, top))


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(lambda name: read_text(_ASSETS / f"{name}.jinja")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=plain,
    )
    for name in ("css", "js"):
        text = read_text(_ASSETS / f"report.{name}")
        made.globals[name] = text
        made.globals[f"{name}_hash"] = b64encode(sha256(text.encode()).digest()).decode()
    return made


def _said(material: Material, top: int) -> dict[str, Any]:
    """Return what the template shows, by its names."""
    ranked = material.sweep.ranked
    result, found = material.result, material.explanation
    return {
        "title": _title(material),
        "answer": _answer(material),
        "caveats": material.caveats,
        "question": _question(material),
        "counted": material.counted or _counted(material),
        "plans": plans_table(material, ranked[:top], "plans", "Plans that fit or may fit, the fastest first"),
        "left_out": max(len(ranked) - top, 0),
        "devices": plans_table(material, material.by_devices, "by-devices", "The best plan of each number of devices"),
        "scaling": scaling([row for row in material.by_devices if row["step_s"]]),
        "too_large": plans_table(
            material, material.sweep.too_large[:10], "too-large", "The fastest of the plans that do not fit"
        ),
        "cluster": cluster(material.topology, material.plan) if material.topology else None,
        "drawing": draw(material.topology) if material.topology else "",
        "step": _step(result) if result else None,
        "timeline": timeline(result) if result else None,
        "memory": memory(result) if result else None,
        "ranks": devices_table(result) if result and result.devices else None,
        "parts": parts_table(found.parts, found.result.step_s) if found else None,
        "what_ifs": what_ifs_table(found.what_ifs) if found and found.what_ifs else None,
        "real": real_table(material),
        "missing": material.missing,
        "trust": trust(material),
        "provenance": provenance(material),
    }


def _title(material: Material) -> str:
    about = material.about
    assert about is not None
    return f"{about['workload']} on {about['topology']}"


def _answer(material: Material) -> list[tuple[str, str]]:
    """Return the best plan in a few facts, a name and its value each."""
    row = material.best
    if row is None:
        return [("best plan", "none: no plan fits" if material.sweep.too_large else "none: no plan can be run")]
    facts = [("best plan", short_plan(row["plan"])), ("step", format_duration(row["step_s"]))]
    tokens = material.rates.tokens or row["tokens_per_sample"]
    if tokens and row["step_s"]:
        facts.append(("throughput", f"{tokens * row['global_batch'] / row['step_s']:,.0f} tokens/s"))
    elif row["throughput_samples_per_s"]:
        facts.append(("throughput", f"{row['throughput_samples_per_s']:,.4g} samples/s"))
    if row["speedup"]:
        facts.append(("speedup", f"{row['speedup']:.2f}x over {short_plan(row['baseline'] or '')}"))
    if (mfu := material.rates.mfu(row)) is not None:
        facts.append(("MFU", format_percent(mfu)))
    if (amount := material.rates.money(row)) is not None and material.rates.price is not None:
        name = (
            f"{short_count(material.rates.train_tokens)} tokens cost" if material.rates.train_tokens else "a step costs"
        )
        facts.append((name, material.rates.price.text(amount)))
    return [*facts, ("memory", _memory(row))]


def _memory(row: Row) -> str:
    if row["highest_peak_memory_bytes"] is None:
        return "not known"
    peak = format_bytes(row["highest_peak_memory_bytes"])
    return {True: f"fits: {peak} at most", False: f"DOES NOT FIT: {peak}", None: f"{peak}; capacity unknown"}[
        row["fits"]
    ]


def _question(material: Material) -> list[tuple[str, str]]:
    row = material.about
    assert row is not None
    tokens = material.rates.tokens or row["tokens_per_sample"]
    batch = f"{row['global_batch']:,} samples" if row["global_batch"] else "not known"
    facts = [
        ("workload", row["workload"]),
        ("cluster", row["topology"]),
        ("batch", f"{batch}, {row['global_batch'] * tokens:,} tokens a step" if tokens else f"{batch} a step"),
        ("runtime", row["runtime"]),
        device_of(row["fidelity"], row["measured_on"]),
    ]
    work = material.workload
    if work is not None:
        facts.append(("layers", f"{len(work.layers):,}"))
        facts.append(("precision", work.precision.name or work.precision.compute))
        facts.append(("optimizer", work.optimizer))
    if material.best is not None:
        facts.append(("best plan, in full", material.plan.text if material.plan else material.best["plan"]))
    return [(name, str(text)) for name, text in facts if text]


def _counted(material: Material) -> tuple[str, ...]:
    """Return what became of the rows of a table."""
    sweep = material.sweep
    text = f"{len(sweep.rows):,} plan{'s' * (len(sweep.rows) != 1)}:"
    text += f" {len(sweep.ranked):,} ranked, {len(sweep.too_large):,} that do not fit"
    reasons = sweep.reasons
    text += f", {sum(count for _, count in reasons):,} that cannot be run."
    more = [f"and {len(reasons) - _MOST_REASONS:,} more reasons"] if len(reasons) > _MOST_REASONS else []
    return (text, *(f"{count:,} × {reason}" for reason, count in reasons[:_MOST_REASONS]), *more)


def _step(result: Result) -> Mapping[str, str]:
    real = "a real run of " if result.made_by == "emulate" else ""
    steady = (
        result.steady_s if result.steady_s and abs(result.steady_s - result.step_s) > 1e-3 * result.step_s else None
    )
    return {
        "what": f"{real}{short_plan(result.plan)}",
        "step": format_duration(result.step_s),
        "steady": f"{format_duration(steady)} a step where steps follow one another" if steady else "",
    }
