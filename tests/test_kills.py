"""A few of the kills of ``benchmarks/kills.py``: no row is lost, nobody left behind, no file half written."""

from dataclasses import replace

import kills
import pytest


@pytest.mark.slow
def test_nothing_is_lost_whatever_ends_a_sweep() -> None:
    kind = kills.sweep_kind("--processes", "2", trials=10)
    small = replace(kind, words=tuple(word.replace("ring:3", "ring:2") for word in kind.words))
    found = kills.campaign(small, 2, seed=11)
    assert found.notes == []
    assert (found.kills, found.rows_lost, found.orphans, found.half_files, found.lines) == (2, 0, 0, 0, 0)
    assert found.resumed == 2
