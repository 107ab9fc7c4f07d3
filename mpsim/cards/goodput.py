"""A goodput's card."""

from __future__ import annotations

from mpsim.cards import html
from mpsim.failures.outcome import Goodput
from mpsim.failures.text import goodput_summary
from mpsim.result.text import format_percent

__all__ = ["card"]


def card(found: Goodput) -> str:
    """Return what a run through failures loses to what, as it is printed.

    Examples
    --------
    >>> found = Goodput(workload="a<b", topology="pair", plan="dp=2", step_s=1.0, interval_s=4.0, interval_steps=4,
    ...                 horizon_s=8.0, useful_s=(6.0,), lost_s=(0.5,), checkpoint_s=(1.5,), restart_s=(0.0,),
    ...                 repair_s=(0.0,), slowed_s=(0.0,), stops=(1,))
    >>> "a&lt;b on pair: 75.0 % useful" in card(found)
    True
    """
    name = f"{found.workload} on {found.topology}: {format_percent(found.goodput)} useful"
    return html.card("Goodput", name, [html.pre(str(goodput_summary(found)))], plan=found.plan, cautions=found.caveats)
