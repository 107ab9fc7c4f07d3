"""A card of what makes a plan fit."""

from __future__ import annotations

from mpsim.cards import html
from mpsim.search.made_fit import MadeFit
from mpsim.units import format_bytes

__all__ = ["card"]


def card(found: MadeFit) -> str:
    """Return what makes a plan fit as it is printed, under what it holds as it is.

    Examples
    --------
    >>> from mpsim.plan.model import Plan
    >>> found = MadeFit(workload="a<b", topology="pair", plan=Plan(), step_s=2.0, peak_bytes=9, capacity_bytes=8)
    >>> "a&lt;b on pair" in card(found), "no change of one thing" in card(found)
    (True, True)
    """
    held = f"it needs {format_bytes(found.peak_bytes)} of {format_bytes(found.capacity_bytes)} on its fullest device"
    name = f"{found.workload} on {found.topology}"
    said = [] if found.fits else [html.lines([held])]
    return html.card("Made to fit", name, [*said, html.pre(str(found))], plan=found.plan.text)
