"""A few of the kills of ``benchmarks/kills.py``: no row is lost, nobody left behind, no file half written."""

import kills
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep, 2 processes", "emulate"])
def test_nothing_is_lost_whatever_ends_it(name) -> None:
    count = 4 if name.startswith("sweep") else 2
    found = kills.campaign(kills.KINDS[name], count, seed=11)
    assert found.notes == []
    lost = (found.rows_lost, found.orphans, found.half_files, found.lines)
    assert (found.kills, lost, found.resumed) == (count, (0, 0, 0, 0), count)
