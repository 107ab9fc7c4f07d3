"""How far to trust a report, and where what it says comes from."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata

from mpsim.documents import Provenance, made_now
from mpsim.report.material import Material, Source
from mpsim.result.text import fidelity_words, format_percent, short_plan
from mpsim.sweeps.question import code_digest

__all__ = ["provenance", "trust"]

_LIBRARIES = ("numpy", "simpy", "torch")


def trust(material: Material) -> list[str]:
    """Return what the numbers rest on, a sentence each, beside the caveats that the page begins with."""
    return [*_times(material), *_traced(material), *_steps(material), *_compared(material)]


def _times(material: Material) -> Iterable[str]:
    best = material.best
    if best is None:
        return
    yield f"Fidelity of the best plan: {best['fidelity']}: {fidelity_words(best['fidelity'])}."
    if best["measured_on"]:
        yield f"Times come from {best['measured_on']}."
    for scaling in material.result.scalings if material.result else ():
        yield f"Costs were {scaling.text}."


def _traced(material: Material) -> Iterable[str]:
    """Say how near the trace's layers come to its own whole steps."""
    if material.workload is None:
        return
    ratios = [check.ratio for check in material.workload.checks]
    if ratios:
        low, high = min(ratios), max(ratios)
        yield (
            f"The traced layers add up to {format_percent(low)} to {format_percent(high)} of the whole steps that were"
            f" measured beside them ({len(ratios)} points)."
        )
    else:
        yield "No whole step was measured beside the layers of this workload: nothing holds their sum to a real step."
    yield from dict.fromkeys((*material.workload.notes, *material.sweep.notes))


def _steps(material: Material) -> Iterable[str]:
    best = material.best
    if best is None:
        return
    if best["runtime"] == "ideal":
        yield (
            "Messages behave as of the runtime ideal: no cost a message beyond its links' latency. --runtime torch-nccl"
            " or torch-gloo has what a real one adds."
        )
    if best["trials"] and best["trials"] > 1:
        yield f"Steps are the medians of {best['trials']:,} trials; timeline and memory are of one, all at its median."
    yield "Not simulated: loading of data, checkpoints, failures (see mpsim goodput), other jobs on the same network."


def _compared(material: Material) -> Iterable[str]:
    if not material.real:
        yield (
            "No real run is laid beside these predictions. mpsim emulate -o writes one, and a report that is given it"
            " says how far off they are. docs/validation.md has how far off others were."
        )
    for real in material.real:
        yield from (f"Of the real run of {short_plan(real.plan)}: {note}." for note in real.notes)


def provenance(material: Material) -> list[tuple[str, str]]:
    """Return what was read and what it was computed with, a name and its value each."""
    found = [("made by", _versions())]
    call = made_now("mpsim.report").command
    found.append(("command", call))
    for source in material.sources:
        found += _source(source)
    for what, value in (("workload", material.workload), ("topology", material.topology)):
        if value is not None:
            found += [(f"{what}: {name}", text) for name, text in _said(value.provenance)]
    question = (material.about or {}).get("question")
    if question:
        found.append(("question of the rows", str(question).partition(":")[0]))
    return found


def _versions() -> str:
    known = [f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            known.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    from mpsim import __version__

    return f"mpsim {__version__} ({code_digest()[:12]}), {', '.join(known)}"


def _source(source: Source) -> Iterable[tuple[str, str]]:
    yield source.what, source.name + (f", sha256 {source.sha256}" if source.sha256 else "")
    yield from ((f"{source.what}: {name}", text) for name, text in _said(source.provenance))


def _said(one: Provenance) -> Iterable[tuple[str, str]]:
    names = {"made_by": "made by", "command": "command", "date": "on", "machine": "machine", "software": "software",
             "source": "from"}  # fmt: skip
    return ((word, getattr(one, name)) for name, word in names.items() if getattr(one, name))
