"""Figures that say in words what they show, to those who do not see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from mpsim.errors import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Described", "alternative_text"]

_MATHEMATICS = "$\\mathdefault"  # How labels of logarithmic axes begin that matplotlib makes itself.
_MOST_ENTRIES = 8  # Of a legend: who hears more of them remembers none.


class Described(Figure):
    """A figure with alternative text: a notebook keeps it beside the picture, and nbconvert writes it into pages.

    Attributes
    ----------
    description : str
        What it shows, in a sentence or two; it comes before what the axes say.
    """

    description = ""

    def draw(self, renderer: Any) -> None:
        """Draw it; names of layers and models are words, whatever dollars and carets stand in them."""
        for words in self.findobj(Text):
            if isinstance(words, Text) and not words.get_text().startswith(_MATHEMATICS):
                words.set_parse_math(False)
        super().draw(renderer)

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, Any]]:
        """Return no picture, which the notebook makes in the format that its user likes, but the words to it."""
        # The key that IPython's own Image has, and that nbconvert reads.
        return {}, {"image/png": {"alt": alternative_text(self)}}


def alternative_text(figure: Figure) -> str:
    """Return what a figure shows in words: what it was said to show, its titles, axes and legends.

    Examples
    --------
    >>> from mpsim.result.plotting.style import axes_for, figure_of
    >>> ax = axes_for(None, 4.0, 3.0)
    >>> _ = ax.plot([1, 2], [3, 4], label="measured")
    >>> _ = ax.set(title="GPT-2", xlabel="devices", ylabel="speedup")
    >>> alternative_text(figure_of(ax))
    'GPT-2. Across: devices; up: speedup. Shown: measured.'
    """
    said = [getattr(figure, "description", ""), *(_described(ax) for ax in figure.axes)]
    whole = figure.get_suptitle() if hasattr(figure, "get_suptitle") else ""
    sentences = dict.fromkeys(words.rstrip(".") for words in (*said[:1], whole, *said[1:]) if words)
    return printable(" ".join(f"{words}." for words in sentences))


def _described(ax: Axes) -> str:
    titles = [ax.get_title(where) for where in ("left", "center", "right")]
    heads = ", ".join(" ".join(title.split()) for title in titles if title)
    sides = {"across": ax.get_xlabel(), "up": ax.get_ylabel()} if ax.axison else {}
    named = "; ".join(f"{side}: {' '.join(label.split())}" for side, label in sides.items() if label)
    shown = list(dict.fromkeys(shortened(" ".join(str(label).split()), 60) for label in _entries(ax)))
    more = [f"and {len(shown) - _MOST_ENTRIES} more"] if len(shown) > _MOST_ENTRIES else []
    entries = ", ".join([*shown[:_MOST_ENTRIES], *more])
    return ". ".join(filter(None, (heads, named[:1].upper() + named[1:], f"Shown: {entries}" if entries else "")))


def _entries(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    if legend is not None:
        return [one.get_text() for one in legend.get_texts()]
    return [str(label) for label in ax.get_legend_handles_labels()[1]]
