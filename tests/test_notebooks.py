"""The notebooks run from their first cell to their last, each in a fresh kernel."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path):
    pytest.importorskip("nbclient")
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.execute(path, write=False) > 0
