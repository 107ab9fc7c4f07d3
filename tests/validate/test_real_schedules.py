"""The page of schedules that were run is what its script makes of its rows, and the rows are of its cases."""

import real_schedules as script

from mpsim.plan.schedule_file import read_schedule
from mpsim.plan.schedules import SCHEDULES
from mpsim.plan.shape import shape_of
from mpsim.validate import Comparison, load_rows


def test_the_page_is_what_the_script_writes():
    rows = load_rows(script.ROWS, Comparison)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(rows)
    assert {row.name for row in rows} <= {case.name for case in script.cases()}


def test_the_schedule_of_ones_own_is_none_of_those_that_have_a_name():
    for ranks, home in ((2, (0, 1, 1, 0)), (4, (0, 1, 2, 3, 1, 0, 3, 2))):
        rows = read_schedule(script.DATA / f"own-schedule-{ranks}.csv")
        assert shape_of(rows).home == home
        assert all(list(rows) != list(schedule(ranks, 8)) for schedule in SCHEDULES.values())
