"""A result's card."""

from __future__ import annotations

from mpsim.cards import html
from mpsim.result.model import Result
from mpsim.result.text import device_rows, facts_of, format_percent, short_notes
from mpsim.sums import sum_of

__all__ = ["card"]

# As in pictures, idle as the page has it: see `mpsim.result.plotting.style`.
_PARTS = (
    ("compute", "compute_s", "#0072B2"),
    ("exposed communication", "exposed_communication_s", "#D55E00"),
    ("exposed launch", "exposed_launch_s", "#E6C700"),
    ("idle", "idle_s", "rgba(128,128,128,.45)"),
)


def card(result: Result) -> str:
    """Return what a result says, and where its step goes.

    Examples
    --------
    >>> result = Result(workload="a<b", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    >>> "a&lt;b on pair" in card(result)
    True
    """
    said = [(name, words) for name, words in facts_of(result) if name != "mean device"]
    kind = "Result" if result.made_by == "simulate" else "Result of a real run"
    blocks = [_step_parts(result), html.facts(said), _devices(result), html.lines(short_notes(result.notes))]
    name = f"{result.workload} on {result.topology}"
    return html.card(kind, name, blocks, plan=result.plan, cautions=result.caveats)


def _step_parts(result: Result) -> str:
    whole = result.step_s * result.n_devices
    if not whole:
        return ""
    parts = []
    for name, field, colour in _PARTS:
        part = sum_of((getattr(device, field), device.count) for device in result.devices) / whole
        parts.append((name, part, format_percent(part), colour))
    return html.bar("where the step of the mean device goes", parts)


def _devices(result: Result) -> str:
    rows = device_rows(result)
    if not rows:
        return ""
    heads, *body = rows
    columns = [
        (head, i == 0, cells) for i, (head, cells) in enumerate(zip(heads, zip(*body, strict=True), strict=True))
    ]
    return html.folded(f"{result.n_devices:,} device{'s' * (result.n_devices > 1)}", html.table(columns))
