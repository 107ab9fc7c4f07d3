"""What figures show: their texts, entries of legends, and whether anything is clipped or runs into something else."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.text import Text


def drawn_texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def assert_nothing_is_clipped(figure: Figure) -> None:
    figure.draw_without_rendering()
    page, hidden = figure.bbox, hidden_ticks(figure)
    for text in drawn_texts(figure):
        if text in hidden:
            continue
        box = text.get_window_extent()
        inside = box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1 and box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1
        assert inside, f"{text.get_text()!r} leaves the page: {box}"


def hidden_ticks(figure: Figure) -> set[Text]:
    """Matplotlib keeps labels of ticks outside the limits and does not draw them."""
    hidden = set()
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    return hidden


def assert_tick_labels_stand_apart(figure: Figure) -> None:
    figure.draw_without_rendering()
    hidden = hidden_ticks(figure)
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            labels = [tick.label1 for tick in axis.get_major_ticks()]
            labels = [label for label in labels if label.get_visible() and label.get_text() and label not in hidden]
            if any(label.get_rotation() % 90 for label in labels):
                continue  # The boxes of slanted labels overlap though their letters do not.
            boxes = [label.get_window_extent() for label in labels]
            for i, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[:i]), labels[i].get_text()


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []
