"""Elements of a page: whatever stands in them is escaped, and what would hide or reorder text is shown as it is."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from mpsim.errors import printable

__all__ = ["element", "picture", "plain"]

Child = str | float | Markup


def plain(value: object) -> Markup:
    """Return text, from wherever it is, as a page can hold it.

    Examples
    --------
    >>> plain("<b>\u202e"), plain(Markup("<b>"))
    (Markup('&lt;b&gt;\\\\u202e'), Markup('<b>'))
    """
    return value if isinstance(value, Markup) else escape(printable(str(value)))


def element(name: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element; an attribute of None is left out, ``stroke_width`` is ``stroke-width``.

    Examples
    --------
    >>> element("rect", x=1.0, y=0.12345, class_="dp", rx=None), element("text", "a < b")
    (Markup('<rect x="1" y="0.12" class="dp"/>'), Markup('<text>a &lt; b</text>'))
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{_attribute(value)}"')
    inside = Markup("").join(map(plain, children))
    return Markup(f"<{' '.join(words)}>{inside}</{name}>" if children else f"<{' '.join(words)}/>")


def _attribute(value: str | float) -> Markup:
    return plain(value if isinstance(value, str) else f"{round(value, 2):.10g}")


def picture(width: float, height: float, title: str, parts: Iterable[Markup], **attributes: str) -> Markup:
    """Return a picture that says in words what it shows.

    Examples
    --------
    >>> picture(10, 5, "a line", [])
    Markup('<svg viewBox="0 0 10 5" role="img" aria-label="a line"><title>a line</title></svg>')
    """
    head: dict[str, str] = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria_label": title}
    return element("svg", element("title", title), *parts, **head, **attributes)
