"""The answer of a search of three spaces of more than 1,000 plans is that of simulating every one of them.

They are smaller ones of those of ``benchmarks/search.py exhaustive``, which has two more: other batches, fewer
stages of ZeRO.
"""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mpsim.search.run import best
from mpsim.search.space import Axes

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search.py"
# The batch, what is tried, and the most plans that may be simulated to know the answer.
SPACES = {
    "U-Net": (16, Axes(devices=(4, 8), zero=(0, 3), recompute=("",), schedules=("1f1b", "interleaved-1f1b")), 200),
    "GPT-2": (8, Axes(zero=(0, 1, 3)), 60),
    "MoE": (4, Axes(zero=(0, 3)), 60),
}


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("search_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    sys.modules[spec.name] = made  # its dataclasses look for it there
    spec.loader.exec_module(made)
    yield made
    del sys.modules[spec.name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_the_answer_is_that_of_simulating_every_plan(script, name) -> None:
    batch, axes, most = SPACES[name]
    whole = next(space for title, space in script.EXHAUSTIVE.items() if title.startswith(name))
    space = replace(whole, batch=batch, axes=axes)
    few = best(space.study(), batch=batch, axes=axes, processes=1, progress=False)
    every = best(space.study(), batch=batch, axes=axes, processes=1, progress=False, prune=False)
    assert script.answer(few) == script.answer(every)
    assert few.planned == every.planned > 1_000
    assert few.simulated <= most
