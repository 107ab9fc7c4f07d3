"""What is drawn of a schedule."""

from pathlib import Path

import pytest

from mpsim.plan.drawing import drawing_of
from mpsim.plan.schedules import SCHEDULES
from mpsim.result.cells import Cell

pytest.importorskip("matplotlib")


def test_cells_of_two_directions():
    found = drawing_of(SCHEDULES["dualpipe"](2, 4))
    assert found.shades == ("first direction", "other direction")
    assert found.cells[:2] == (Cell(0, 0.0, 1.0, "F", 0), Cell(0, 1.0, 2.0, "F", 1, shade=1))
    shared = [cell for cell in found.cells if cell.rank == 0 and cell.half]
    assert shared == [Cell(0, 5.0, 8.0, "F", 3, shade=1, half=1), Cell(0, 5.0, 8.0, "B", 0, half=2)]


def test_numbers_of_a_drawing():
    found = drawing_of(SCHEDULES["1f1b"](4, 8))
    assert found.shades == ("stage 1 of a rank",)
    assert found.step == 33.0
    assert found.bubble_fraction == pytest.approx(3 / 11, rel=1e-12)
    assert found.most_held == (4.0, 3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("name", "kinds"), [("gpipe", {"F", "B"}), ("zb-v", {"F", "I", "W"}), ("pipedream", {"F", "B", "U"})]
)
def test_pictures_have_each_kind_in_their_legend(name, kinds):
    from mpsim.result.plotting import schedule

    drawing = drawing_of(SCHEDULES[name](3, 4))
    (axes,) = schedule(drawing.cells, heading=["mine"], shades=drawing.shades).axes
    names = {"F": "forward", "B": "backward", "I": "backward, inputs", "W": "backward, weights", "U": "update"}
    told = {text.get_text().split(", stage")[0] for text in axes.get_legend().get_texts()}
    assert told == {names[kind] for kind in kinds}
    assert axes.get_title(loc="left") == "mine"
    numbers = [text.get_text() for text in axes.texts]
    assert len(numbers) == sum(cell.kind != "U" for cell in drawing.cells)
    assert set(numbers) == {"0", "1", "2", "3"}


def test_too_many_cells_have_no_numbers():
    from mpsim.result.plotting import schedule

    drawing = drawing_of(SCHEDULES["1f1b"](8, 200))
    assert not schedule(drawing.cells).axes[0].texts


def test_the_page_of_schedules_is_what_the_script_writes():
    script = pytest.importorskip("schedules")
    written = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
    assert script.page(*script.drawn()) == written
    assert set(script.STEPS) == set(SCHEDULES)
