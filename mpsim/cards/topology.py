"""A topology's card."""

from __future__ import annotations

from mpsim.cards import html
from mpsim.topology.model import Topology
from mpsim.topology.show import draw

__all__ = ["card"]

_MOST_LINES, _WIDEST = 40, 200


def card(topology: Topology) -> str:
    """Return a topology's devices and links, like ones together, and a drawing where it is small.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> "8 × d* ⇄ d*, 50 GB/s, 2 us" in card(ring(4, link="50GB/s@2us"))
    True
    """
    _, counts, *drawn = draw(topology).splitlines()
    shown = [line[:_WIDEST] + "…" * (len(line) > _WIDEST) for line in drawn[:_MOST_LINES]]
    more = [f"and {len(drawn) - _MOST_LINES} more lines: mpsim.draw has them"] if len(drawn) > _MOST_LINES else []
    return html.card("Topology", topology.name, [html.lines([counts]), html.pre("\n".join(shown)), html.lines(more)])
