"""Tables and facts as text: plain where they are piped or kept, as wide as the terminal where there is one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TextIO

from mpsim.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as RichText

__all__ = ["Column", "Text", "align", "align_rows", "facts", "filled", "joined", "show"]

_NARROW, _WIDE = 24, 40  # Narrower than the first no words are set; words longer than the second are broken.
_STYLES = {
    r"(?m)^(caution|warning):": "bold yellow",
    r"(?m)^note:.*": "dim",
    r"DOES NOT FIT|^NO$": "bold red",
}  # fmt: skip


class Column(NamedTuple):
    """One column of a table: its heading, whether it is set to the left, as words are, and its cells."""

    heading: str
    left: bool
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """Characters of the longest cell."""
        return max(map(len, (self.heading, *self.cells)))

    @property
    def narrowest(self) -> int:
        """Characters that it takes at least: words may be wrapped, those of headings too, numbers not."""
        cells = [word for cell in self.cells for word in cell.split()] if self.left else self.cells
        longest = max(map(len, ("", *self.heading.split(), *cells)))
        return min(longest, _WIDE) if self.left else longest

    @property
    def least(self) -> int:
        """Characters below which it is not read well."""
        return min(self.width, max(_NARROW, self.narrowest)) if self.left else self.narrowest

    def lines(self) -> list[str]:
        """Return its heading and its cells, all of one width."""
        width = self.width
        return [cell.ljust(width) if self.left else cell.rjust(width) for cell in (self.heading, *self.cells)]


@dataclass(frozen=True, slots=True)
class _Table:
    columns: tuple[Column, ...]
    spare: tuple[str, ...] = ()
    headed: bool = True

    def __str__(self) -> str:
        lines = zip(*(column.lines() for column in self.columns), strict=True)
        text = ["  ".join(line).rstrip() for line in lines]
        return "\n".join(text if self.headed else text[1:])

    def fitting(self, width: int) -> list[tuple[Column, int]]:
        """Return the columns for which there is room, and the characters of each; those to spare go first."""
        kept = list(self.columns)
        for heading in self.spare:
            if sum(column.least + 2 for column in kept) - 2 <= width:
                break
            kept = [column for column in kept if column.heading != heading]
        widths = [column.width for column in kept]
        for least in ([column.least for column in kept], [column.narrowest for column in kept]):
            while sum(widths) + 2 * (len(kept) - 1) > width:
                loose = [i for i, characters in enumerate(widths) if characters > least[i]]
                if not loose:
                    break
                # Headings are wrapped before words in cells are.
                widths[max(loose, key=lambda i: (not kept[i].left, widths[i]))] -= 1
        return list(zip(kept, widths, strict=True))


class Text(str):
    """Text that knows which parts of it are tables, so that `show` can set them anew for a terminal.

    Everywhere else it is the text that is piped: a string as any other.
    """

    parts: tuple[str | _Table, ...]


def _text(parts: Iterable[str | _Table]) -> Text:
    """Return text of words and tables in turn."""
    turns: list[str | _Table] = []
    for part in parts:
        if turns and isinstance(part, str) and isinstance(turns[-1], str):
            turns[-1] += part
        else:
            turns.append(part)
    found = Text("".join(map(str, turns)))
    found.parts = tuple(turns)
    return found


def align(columns: Iterable[tuple[str, bool, Sequence[str]]], spare: Sequence[str] = ()) -> Text:
    """Return columns of text beside one another; those without a word in them are left out.

    Parameters
    ----------
    columns : iterable of Column
        Headings, whether to the left, and cells.
    spare : sequence of str
        Headings of columns that a terminal too narrow for all of them may be without, the least needed first.

    Examples
    --------
    >>> print(align([("a", True, ["x", "yy"]), ("n", False, ["10", "2"]), ("b", True, ["", ""])]))
    a    n
    x   10
    yy   2
    """
    kept = [Column(heading, left, [_in_one_line(cell) for cell in cells]) for heading, left, cells in filled(columns)]
    return _text([_Table(tuple(kept), tuple(spare))])


def filled(columns: Iterable[tuple[str, bool, Sequence[str]]]) -> list[Column]:
    """Return the columns that have a word in them.

    Examples
    --------
    >>> [column.heading for column in filled([("a", True, [" "]), ("b", True, ["x"])])]
    ['b']
    """
    return [Column(*column) for column in columns if any(cell.strip() for cell in column[2])]


def _in_one_line(cell: str) -> str:
    """Return a cell, such as a stranger's name, as it takes one line of as many characters as are counted."""
    return printable(cell).replace("\n", " ").replace("\t", " ")


def align_rows(rows: Sequence[Sequence[str]], left: Collection[int] | None = None, spare: Sequence[str] = ()) -> Text:
    """Return rows as `align` does, the first of headings; by default columns of words to the left, others not.

    Examples
    --------
    >>> print(align_rows([("name", "count"), ("a", "10"), ("bc", "2")]))
    name  count
    a        10
    bc        2
    """
    columns = list(zip(*rows, strict=True))
    words = {i for i, (_, *cells) in enumerate(columns) if not any(cell[:1].isdigit() for cell in cells)}
    lefts = {0, *words} if left is None else left
    return align(((heading, i in lefts, cells) for i, (heading, *cells) in enumerate(columns)), spare)


def facts(pairs: Iterable[tuple[str, str]]) -> Text:
    """Return names and what is said of each, a line each; those of which nothing is said are left out.

    Examples
    --------
    >>> print(facts([("step", "2 s"), ("speedup", ""), ("runtime", "ideal")]))
    step            2 s
    runtime         ideal
    """
    kept = [(name.ljust(14), text) for name, text in pairs if text]
    names, texts = ([pair[i] for pair in kept] for i in (0, 1))
    return _text([_Table((Column("", True, names), Column("", True, texts)), headed=False)])


def joined(between: str, blocks: Iterable[str]) -> Text:
    """Return texts after one another, as `str.join` does, their tables known.

    Examples
    --------
    >>> print(joined(": ", ["a table", align([("n", False, ["1"])])]))
    a table: n
    1
    """
    parts: list[str | _Table] = []
    for i, block in enumerate(blocks):
        parts += [between] * (i > 0)
        parts += block.parts if isinstance(block, Text) else [block]
    return _text(parts)


def show(text: Text, stream: TextIO) -> None:
    """Write text to a terminal in its width, in colours unless ``NO_COLOR`` is set or the terminal has none."""
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    start = True  # of a line
    for i, part in enumerate(text.parts):
        if isinstance(part, _Table):
            _show_table(part, console)
        else:
            # A table ends its own line, and begins on one of its own.
            words = part if start else part.removeprefix("\n")
            last = i == len(text.parts) - 1
            if words:
                console.print(_styled(words if last else words.removesuffix("\n")))
        start = not isinstance(part, _Table)


def _show_table(shown: _Table, console: Console) -> None:
    from rich.table import Table

    fitting = shown.fitting(console.width)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=shown.headed, header_style="bold")
    for column, width in fitting:
        justify: Literal["left", "right"] = "left" if column.left else "right"
        grid.add_column(_styled(column.heading), justify=justify, width=width)
    for row in zip(*(column.cells for column, _ in fitting), strict=True):
        grid.add_row(*map(_styled, row))
    columns = console.width
    # Where there is too little room for its numbers the terminal breaks the lines.
    console.width = max(columns, sum(width + 2 for _, width in fitting))
    console.print(grid)
    console.width = columns
    kept = [column for column, _ in fitting]
    if left := [printable(column.heading) for column in shown.columns if column not in kept]:
        console.print(f"({', '.join(left)}: not in {columns} columns)", style="dim")


def _styled(words: str) -> RichText:
    from rich.text import Text as RichText

    found = RichText(printable(words), overflow="fold")
    for pattern, style in _STYLES.items():
        found.highlight_regex(pattern, style)
    return found
