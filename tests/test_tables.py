"""Tables: one text where it is piped; on a terminal no wider than that, every number whole."""

import io
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.tables import Text, align, align_rows, facts, joined, show

PLANS = align(
    [
        ("rank", False, ["1", "2"]),
        ("plan", True, ["dp=8 zero=1", "pp=8 micro-batches=16 interleaved-1f1b chunks=2"]),
        ("step", False, ["12.3 ms", "1.5 s"]),
        ("peak memory", False, ["8.18 GiB", "12 GiB"]),
        ("fits", True, ["yes", "NO"]),
    ],
    ("rank",),
)
SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(text: Text, columns: int, monkeypatch, **environment: str) -> str:
    """What a terminal of so many columns is sent."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"COLUMNS": str(columns), "LINES": "50", "TERM": "xterm-256color"} | environment).items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    show(text, stream)
    return stream.getvalue()


def lines_of(sent: str) -> list[str]:
    return [line.rstrip() for line in SEQUENCE.sub("", sent).splitlines()]


def test_where_there_is_room_a_terminal_shows_what_is_piped(monkeypatch):
    text = joined("\n\n", ["caution: by hand", facts([("step", "2 s"), ("runtime", "ideal")]), PLANS, "note: it ends"])
    assert lines_of(on_a_terminal(text, 100, monkeypatch)) == text.splitlines()


def test_a_narrow_terminal_wraps_words_and_loses_the_columns_to_spare_and_says_which(monkeypatch):
    assert lines_of(on_a_terminal(PLANS, 49, monkeypatch)) == [
        "                                       peak",
        "plan                         step    memory  fits",
        "dp=8 zero=1               12.3 ms  8.18 GiB  yes",
        "pp=8 micro-batches=16       1.5 s    12 GiB  NO",
        "interleaved-1f1b",
        "chunks=2",
        "(rank: not in 49 columns)",
    ]
    assert lines_of(on_a_terminal(PLANS, 40, monkeypatch))[2:-1] == [
        "dp=8 zero=1       12.3 ms  8.18 GiB  yes",
        "pp=8                1.5 s    12 GiB  NO",
        "micro-batches=16",
        "interleaved-1f1b",
        "chunks=2",
    ]


def test_colours_where_there_are_some(monkeypatch):
    text = joined("\n", ["caution: scaled", PLANS])
    assert "\x1b[1;33mcaution:" in on_a_terminal(text, 80, monkeypatch)
    assert "\x1b[1;31mNO" in on_a_terminal(text, 80, monkeypatch)
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", on_a_terminal(text, 80, monkeypatch, **environment))


def test_what_would_command_the_terminal_is_escaped(monkeypatch):
    evil = "\x1b]0;title\x07"
    text = joined("\n", [evil, align_rows([("name", evil), (evil, "[red]1[/red]")])])
    sent = on_a_terminal(text, 200, monkeypatch)
    assert "\x1b]" not in sent
    assert "\x07" not in sent
    assert "[red]1[/red]" in sent


def test_a_cell_is_one_line_of_the_characters_that_are_counted():
    table = align_rows([("name", "n"), ("a\nb\tc\x1b", "1"), ("d", "22")]).splitlines()
    assert table == ["name          n", "a b c\\u001b   1", "d            22"]


numbers = st.from_regex(r"[0-9]{1,12} [kMG]?B", fullmatch=True)
words = st.text("abcdefgh =", min_size=1, max_size=60)


@given(
    columns=st.lists(st.tuples(words, st.lists(numbers, min_size=3, max_size=3)), min_size=1, max_size=8),
    plans=st.lists(words, min_size=3, max_size=3),
    width=st.integers(20, 140),
)
def test_no_number_is_ever_cut_and_no_line_longer_than_the_terminal_if_that_can_be(columns, plans, width):
    laid = [(f"{i} {heading}", False, cells) for i, (heading, cells) in enumerate(columns)]
    text = align([("plan", True, [f"p{plan}" for plan in plans]), *laid], [heading for heading, _, _ in reversed(laid)])
    with pytest.MonkeyPatch.context() as monkeypatch:
        lines = lines_of(on_a_terminal(text, width, monkeypatch))
    body = "\n".join(lines)
    gone = re.search(r"\(([^()]*): not in", body.replace("\n", " "))
    kept = len(laid) - (gone[1].count(",") + 1 if gone else 0)
    for _, _, cells in laid[:kept]:
        for cell in cells:
            assert cell in body
    narrowest = 40 if kept == 0 else width
    assert max(map(len, lines)) <= max(width, narrowest)


def test_tables_are_known_through_joins():
    assert isinstance(joined("", ["a", PLANS]), Text)
    assert joined("", ["a ", PLANS]) == f"a {PLANS}"
    assert len(joined("\n", ["a", "b", PLANS, "c"]).parts) == 3
    assert facts([]) == align([]) == joined("", []) == ""


def test_nothing_is_loaded_for_a_terminal_before_there_is_one(monkeypatch):
    import subprocess
    import sys

    code = "import sys, mpsim.cli, mpsim.tables; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout == "False\n"
