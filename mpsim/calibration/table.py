"""Tables of nccl-tests in text, whatever stands before each line and whichever cells are blank.

::

    #       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
    #        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
            1024           256     float     sum      -1    22.41    0.05    0.09      0    21.98    0.05    0.09      0

The head names the columns. What stands before it on its line (a rank, a host, a pod, a moment) stands in like form
before every row. Cells may be blank, and a log says nowhere which: they are those without which each cell is of its
column's form and most rows agree with themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

from mpsim.calibration.row import NUMBER, Row, Side, holds, printed, whole_size
from mpsim.errors import MpsimError

__all__ = ["Table", "tables_of"]

_SIDE = ("time", "algbw", "busbw")
_NAMES = ("size", "count", "type", "redop", "root", *_SIDE, "wrong", "error")
_WORD_OF_TEXT, _WHOLE = re.compile(r"[A-Za-z]\w*"), re.compile(r"[-+]?\d+")
_FORMS = {"size": re.compile(r"\d+", re.ASCII), "count": re.compile(r"\d+"), "type": _WORD_OF_TEXT,
          "redop": _WORD_OF_TEXT, "root": _WHOLE}  # fmt: skip
_UNITS = {r"\([KMGT]?i?B\)": "(B)", r"\((us|ms|s|ns)\)": "(us)", r"\(.{0,3}B/s\)": "(GB/s)"}
# What a row begins with: a number, or what was one before somebody wrote it shorter.
_BEGINS = re.compile(r"[-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?[A-Za-z]{0,3}")
_FIRST, _COLUMN = re.compile(r"\b(size|count|type|redop|root|time)\b"), re.compile(r"[\w.%-]+")
_MARKS = re.compile(r"\w+|\s+|[^\w\s]")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MOST_BLANK = 4
_ENOUGH_ROWS = 40  # To see which columns are blank.


class Table(NamedTuple):
    """Rows under one head, what stands above that, behind the table before it, and the number of its line."""

    above: Sequence[str]
    rows: list[Row]


def tables_of(path: str, text: str) -> Iterator[Table]:
    """Yield the tables of a log that have rows.

    Raises
    ------
    MpsimError
        No line of units, others than bytes and microseconds, a row that is none.

    Examples
    --------
    >>> text = "0: # size redop time algbw busbw\\n0: # (B) (us) (GB/s) (GB/s)\\n0:  1048576 50.0 20.97 36.70\\n"
    >>> [(row.where, row.size, row.sides[0].time_us.value) for one in tables_of("a.log", text) for row in one.rows]
    [('a.log:3', 1048576, 50.0)]
    """
    lines = [_COLOURS.sub("", line) for line in text.splitlines()]
    heads = [(i, head) for i, line in enumerate(lines) if (head := _head_of(line)) is not None]
    ends = [*(i for i, _ in heads), len(lines)][1:]
    before = 0
    for (at, head), end in zip(heads, ends, strict=True):
        rows = _Body(path, head, at, lines[at + 1 : end], _titles(lines, at)).rows()
        if rows:
            yield Table(lines[before:at], rows)
        before = at + 1


class _Head(NamedTuple):
    """What stands before each line, and the columns."""

    prefix: re.Pattern[str]
    names: list[str]


def _head_of(line: str) -> _Head | None:
    for first in _FIRST.finditer(line):
        names = _words(line[first.start() :])
        if {"size", *_SIDE} <= set(names) and all(map(_COLUMN.fullmatch, names[: names.index("busbw")])):
            before = re.sub(r"\\?#?[\s|]*$", "", line[: first.start()]).strip()
            return _Head(re.compile(r"\s*" + "".join(map(_like, _MARKS.findall(before)))), names)
    return None


def _like(mark: str) -> str:
    """Return what a piece of one line's beginning is in another's: numbers and words differ, the rest does not."""
    return r"\s+" if mark.isspace() else r"\w+" if re.match(r"\w", mark) else re.escape(mark)


def _words(text: str) -> list[str]:
    """Return the words of a line, also of one whose columns a page parted by bars."""
    return re.split(r"[\s|]+", text.replace("#wrong", "wrong").lstrip("\\#| \t\xa0").rstrip("| \t\r\xa0"))


def _titles(lines: Sequence[str], at: int) -> list[str]:
    """Return which sides stand first, by the line above the head."""
    return re.findall(r"out-of-place|in-place", lines[at - 1]) if at else []


class _Body:
    """The lines of one table."""

    def __init__(self, path: str, head: _Head, at: int, lines: Sequence[str], titles: list[str]) -> None:
        self.path, self.head, self.at, self.titles = path, head, at, titles
        self.found: list[tuple[int, list[str]]] = []
        self.strange: list[tuple[int, list[str]]] = []
        units = False
        for number, line in enumerate(lines, start=at + 2):
            match = self.head.prefix.match(line)
            words = _words(line[match.end() :] if match else line)
            if re.search(r"\((us|ms|s|ns)\)", line):
                _check_units(f"{path}:{number}", words)
                units = True
            elif _BEGINS.fullmatch(words[0]) or words[0].isnumeric() or _fits(head.names, words):
                if not units:
                    raise MpsimError(f"{path}:{at + 1}: the table has no line of units below its head: keep (B), (us)")
                self.found.append((number, words))
            elif match is None:
                self.strange.append((number, words))

    def rows(self) -> list[Row]:
        """Return the rows of the table, those of no bytes left out."""
        names = _filled(self.head.names, [words for _, words in self.found or self.strange][:_ENOUGH_ROWS])
        for number, words in self.strange:
            # Before these stands something of another form: a row is wherever one fits.
            starts = (words[i:] for i in range(1, len(words)))
            if (inside := next((some for some in starts if _fits(names, some)), None)) is not None:
                self.found.append((number, inside))
        rows = [self._row(names, number, words) for number, words in sorted(self.found)]
        # Of few bytes over many ranks nccl-tests moves none, and says 0: nothing was measured.
        return [row for row in rows if row.size]

    def _row(self, names: Sequence[str], number: int, words: Sequence[str]) -> Row:
        where = f"{self.path}:{number}"
        if not _fits(names, words):
            shown = " ".join(words)[:80]
            raise MpsimError(f"{where}: {shown!r} is no row of {' '.join(self.head.names)}: it was cut or edited")
        sides = _sides(names, words)
        if self.titles[:2] == ["in-place", "out-of-place"]:
            sides.reverse()
        if not sides:
            raise MpsimError(f"{where}: it has no time, algbw and busbw that are numbers: nothing was measured")
        return Row(where=where, size=whole_size(where, words[names.index("size")]), sides=tuple(sides))


def _check_units(where: str, words: Sequence[str]) -> None:
    """Refuse a line of units with others than a table of nccl-tests has."""
    for word in words:
        due = next((unit for form, unit in _UNITS.items() if re.fullmatch(form, word)), word)
        if word != due:
            raise MpsimError(f"{where}: the table is in {word} where {due} is due: convert it, or log again")


def _fits(names: Sequence[str], words: Sequence[str]) -> bool:
    """Whether each word is of its column's form."""
    return len(words) >= len(names) and all(map(_is_cell, names, words))


def _is_cell(name: str, word: str) -> bool:
    if name in _FORMS:
        return _FORMS[name].fullmatch(word) is not None
    return name not in _NAMES or word == "N/A" or NUMBER.fullmatch(word) is not None


def _sides(names: Sequence[str], words: Sequence[str]) -> list[Side]:
    """Return the sides of a row that have numbers."""
    at = {name: [i for i, one in enumerate(names) if one == name] for name in (*_SIDE, "wrong")}
    found = []
    for i, columns in enumerate(zip(*(at[name] for name in _SIDE), strict=False)):
        cells = [words[column] for column in columns]
        if "N/A" not in cells:
            wrong = words[at["wrong"][i]] if i < len(at["wrong"]) else ""
            time_us, algbw, busbw = map(printed, cells)
            found.append(Side(time_us, algbw, busbw, wrong))
    return found


def _filled(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the columns that have cells: all, or without as few as make the most rows agree with themselves."""
    best, most = list(names), (-1, -1)
    most_behind = max(map(len, rows), default=0)
    for blank in _blanks(names):
        kept = [name for i, name in enumerate(names) if i not in blank]
        fitting = [words for words in rows if _fits(kept, words) and len(words) <= len(kept) + most_behind]
        score = (sum(_agrees(kept, words) for words in fitting), len(fitting))
        if score > most:
            best, most = kept, score
        if most == (len(rows), len(rows)):
            break
        most_behind = 1  # A moment is a day and a time below one name.
    return best


def _blanks(names: Sequence[str]) -> Iterator[set[int]]:
    """Yield the columns that may be blank, the fewest first: some that no time needs, or a whole side."""
    optional = [i for i, name in enumerate(names) if name not in ("size", *_SIDE)]
    first = next(name for name in names if name in _SIDE)
    again = [i for i, name in enumerate(names) if name == first]
    for count in range(_MOST_BLANK + 1):
        yield from map(set, combinations(optional, count))
    for begins, ends in pairwise([*again, len(names)]) if len(again) > 1 else ():
        side = set(range(begins, ends))
        for count in range(_MOST_BLANK + 1):
            yield from ({*some, *side} for some in combinations([i for i in optional if i not in side], count))


def _agrees(names: Sequence[str], words: Sequence[str]) -> bool:
    size = words[names.index("size")]
    sides = _sides(names, words)
    return len(size) < 20 and bool(sides) and all(holds(int(size), side) for side in sides)
