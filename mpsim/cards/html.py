"""The parts of a card, as HTML that needs nothing else: whatever stands in a name is text, and no mark-up.

Colours are the page's own, light or dark: text is `currentColor`, lines and shades are that, thinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as _escape
from itertools import zip_longest

from mpsim.errors import printable, shortened
from mpsim.result.once import once

__all__ = ["bar", "card", "facts", "folded", "lines", "pre", "table", "text"]

# Text set to the left in a column; else numbers, which are set to the right.
Column = tuple[str, bool, Sequence[str]]
_LONGEST = 240
_STYLE = (
    ".mpsim-card{max-width:66em;line-height:1.4;border:1px solid;border-color:rgba(128,128,128,.45);border-radius:6px;"
    "padding:.6em .9em;margin:.2em 0;overflow-x:auto;color:inherit}"
    ".mpsim-card *{color:inherit}"
    ".mpsim-card .head{font-weight:600;font-size:1.08em;overflow-wrap:anywhere}"
    ".mpsim-card .kind{font-weight:400;opacity:.7}"
    ".mpsim-card .plan{font-family:monospace;overflow-wrap:anywhere}"
    ".mpsim-card .caution{border-left:4px solid #D55E00;padding-left:.6em;margin:.4em 0;overflow-wrap:anywhere}"
    ".mpsim-card dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1em;margin:.4em 0}"
    ".mpsim-card dl dt{font-weight:400;opacity:.7;float:none;width:auto;white-space:nowrap;margin:0}"
    ".mpsim-card dl dd{margin:0;float:none;width:auto;overflow-wrap:anywhere}"
    ".mpsim-card table{border-collapse:collapse;margin:.4em 0;background:none;border:none;font-size:.88em}"
    ".mpsim-card tr,.mpsim-card thead,.mpsim-card tbody{background:none!important;border:none}"
    ".mpsim-card th,.mpsim-card td{padding:.1em .7em .1em 0;line-height:1.4;text-align:right;border:none;"
    "white-space:nowrap;font-variant-numeric:tabular-nums;max-width:34em;overflow:hidden;text-overflow:ellipsis}"
    ".mpsim-card th{font-weight:400;opacity:.7;border-bottom:1px solid rgba(128,128,128,.45);white-space:normal;"
    "vertical-align:bottom}"
    ".mpsim-card table .left{text-align:left!important}"
    ".mpsim-card .bar{display:flex;height:.8em;margin:.5em 0 .2em;border-radius:3px;overflow:hidden}"
    ".mpsim-card .key i{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin:0 .35em 0 0}"
    ".mpsim-card .key span{margin-right:1.1em;white-space:nowrap}"
    ".mpsim-card pre{margin:.4em 0;max-height:26em;overflow:auto;background:none;line-height:1.25;font-size:.9em;"
    "white-space:pre}"
    ".mpsim-card .small{font-size:.92em;opacity:.85;overflow-wrap:anywhere}"
    ".mpsim-card summary{cursor:pointer;opacity:.7}"
)


def text(words: object, most: int = _LONGEST) -> str:
    """Return words of a stranger as they stand in a card: short, printable, and no mark-up.

    Examples
    --------
    >>> text("<img src=x onerror=alert(1)>")
    '&lt;img src=x onerror=alert(1)&gt;'
    """
    return _escape(shortened(" ".join(printable(str(words)).split()), most))


def card(kind: str, name: object, blocks: Iterable[str], *, plan: str = "", cautions: Sequence[str] = ()) -> str:
    """Return a card.

    Parameters
    ----------
    kind, name, plan : str
        What it is of: words of mpsim's, and of whoever named it.
    blocks : iterable of str
        HTML, as the other functions here make it.
    cautions : sequence of str
        What may make it wrong; it stands above all else.

    Examples
    --------
    >>> card("Plan", "a & b", []).endswith('<div class="head">a &amp; b <span class="kind">Plan</span></div></div>')
    True
    """
    head = f'<div class="head">{text(name, 120)} <span class="kind">{_escape(kind)}</span></div>'
    split = f'<div class="plan">{text(plan, 160)}</div>' if plan else ""
    said = once(cautions)
    told = [text(one, 300) for one in said[:3]] + [f"and {len(said) - 3} more"] * (len(said) > 3)
    warned = f'<div class="caution">caution: {"; ".join(told)}</div>' if told else ""
    return f'<div class="mpsim-card"><style>{_STYLE}</style>{warned}{head}{split}{"".join(filter(None, blocks))}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and what is said of each; those of which nothing is known are left out.

    Examples
    --------
    >>> facts([("step", "2 s"), ("speedup", "")])
    '<dl><dt>step</dt><dd>2 s</dd></dl>'
    """
    said = [f"<dt>{text(name)}</dt><dd>{text(words, 400)}</dd>" for name, words in pairs if words]
    return f"<dl>{''.join(said)}</dl>" if said else ""


def table(columns: Sequence[Column], below: str = "") -> str:
    """Return columns of text beside one another; those without any text are left out.

    Examples
    --------
    >>> table([("step", False, ["2 s"]), ("note", True, [""])])
    '<table><thead><tr><th>step</th></tr></thead><tbody><tr><td>2 s</td></tr></tbody></table>'
    """
    known = [column for column in columns if any(cell.strip() for cell in column[2])]
    if not known:
        return ""
    sides = [' class="left"' if left else "" for _, left, _ in known]
    heads = "".join(f"<th{side}>{text(name)}</th>" for (name, *_), side in zip(known, sides, strict=True))
    rows = "".join(
        f"<tr>{_cells(row, sides)}</tr>" for row in zip_longest(*(cells for *_, cells in known), fillvalue="")
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{lines([below]) if below else ''}"


def _cells(row: Sequence[str], sides: Sequence[str]) -> str:
    return "".join(f"<td{side}>{_cell(cell)}</td>" for cell, side in zip(row, sides, strict=True))


def _cell(cell: str) -> str:
    """Return a cell; one that is cut off says all of it to whoever points at it."""
    found = text(cell)
    return f'<span title="{found}">{found}</span>' if len(cell) > 60 else found


def lines(words: Iterable[str]) -> str:
    """Return lines of small text.

    Examples
    --------
    >>> lines(["3 plans"])
    '<div class="small">3 plans</div>'
    """
    return "".join(f'<div class="small">{text(one, 400)}</div>' for one in words if one)


def pre(words: str) -> str:
    """Return text as it stands, such as a drawing.

    Examples
    --------
    >>> pre("a < b")
    '<pre>a &lt; b</pre>'
    """
    return f"<pre>{_escape(printable(words))}</pre>"


def folded(summary: str, block: str) -> str:
    """Return a block that is shown when it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{block}</details>" if block else ""


def bar(label: str, parts: Sequence[tuple[str, float, str, str]]) -> str:
    """Return a bar of parts, and below it what they are.

    Parameters
    ----------
    label : str
        What is parted, for those who hear the page.
    parts : sequence of (str, float, str, str)
        Name, fraction of the whole, in words, colour.

    Examples
    --------
    >>> 'aria-label="a step: compute 100 %"' in bar("a step", [("compute", 1.0, "100 %", "blue")])
    True
    """
    shown = [part for part in parts if part[1] > 0]
    said = ", ".join(f"{name} {words}" for name, _, words, _ in shown)
    strips = "".join(
        f'<div title="{text(f"{name} {words}")}" style="width:{100 * part:.2f}%;background:{colour}"></div>'
        for name, part, words, colour in shown
    )
    keys = "".join(
        f'<span><i style="background:{colour}"></i>{text(f"{name} {words}")}</span>' for name, _, words, colour in shown
    )
    spoken = text(f"{label}: {said}", 400)
    return f'<div class="bar" role="img" aria-label="{spoken}">{strips}</div><div class="key small">{keys}</div>'
