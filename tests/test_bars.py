"""The bar: only where somebody looks, only of what lasts, and never in the way of the answer."""

import io
import sys
from types import SimpleNamespace

import pytest

import mpsim
from mpsim import bars
from mpsim.calibration import Measurement
from mpsim.validate.published import validate_published


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Stand for a terminal that somebody looks at, on which nothing is too short for a bar."""
    found = Terminal()
    monkeypatch.setattr(sys, "__stderr__", found)
    monkeypatch.setattr(bars, "PATIENCE_S", 0.0)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return found


@pytest.fixture
def four():
    layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    return mpsim.Workload.chain("four", layers), mpsim.parse_topology("chain:4,link=1GB/s@0")


def drawn(**more):
    variability = mpsim.Variability(straggler_probability=0.5, straggler_factor=2.0)
    return {"trials": 5, "variability": variability, **more}


def test_what_lasts_has_a_bar_that_is_gone_in_the_end(terminal, four) -> None:
    with bars.progress_of(None, "plans") as progress:
        progress(1, 4)
    assert "1/4" in terminal.getvalue()
    assert " plans" in terminal.getvalue()
    assert terminal.getvalue().rstrip(" ").endswith("\r")


def test_every_call_that_may_last_shows_one(terminal, four) -> None:
    calls = {
        "trials": lambda: mpsim.simulate(*four, mpsim.Plan(dp=2), **drawn()),
        "plans": lambda: mpsim.sweep(*four, batch=4, processes=1),
        "plans/": lambda: mpsim.best(mpsim.Study(*four), batch=4, processes=1),
        "what-ifs": lambda: mpsim.explain(*four, mpsim.Plan(dp=2)),
    }
    for unit, call in calls.items():
        before = len(terminal.getvalue())
        call()
        assert unit.rstrip("/") in terminal.getvalue()[before:], unit


def test_what_is_validated_and_calibrated_shows_one(terminal) -> None:
    points = [
        Measurement(kind="broadcast", ranks=2, bytes=2**i, seconds=1e-5 + 2**i / 1e9, source="log:1") for i in range(8)
    ]
    assert mpsim.calibrate("switch:2,link=nvlink4", points, progress=False).residuals
    assert terminal.getvalue() == ""
    mpsim.calibrate("switch:2,link=nvlink4", points)
    assert " curves" in terminal.getvalue()
    validate_published(only=["vocab_parallel_stage_times"])
    assert " rows" in terminal.getvalue()


def test_items_are_counted_as_they_are_done(terminal) -> None:
    calls = []
    assert [*bars.each("abc", lambda *done: calls.append(done), "letters")] == ["a", "b", "c"]
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for _ in bars.each("abc", None, "letters"):
        break  # and what is left in the middle is put away
    assert terminal.getvalue().rstrip(" ").endswith("\r")


def test_what_is_soon_done_shows_nothing(terminal, four, monkeypatch) -> None:
    monkeypatch.setattr(bars, "PATIENCE_S", 1000.0)
    mpsim.sweep(*four, batch=4, processes=1)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("asked", [False, lambda done, total: None])
def test_nothing_is_shown_where_none_is_asked_for(terminal, four, asked) -> None:
    mpsim.sweep(*four, batch=4, processes=1, progress=asked)
    mpsim.simulate(*four, mpsim.Plan(dp=2), **drawn(progress=asked))
    assert terminal.getvalue() == ""


def test_nothing_is_shown_where_nobody_looks(terminal, four, monkeypatch) -> None:
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    mpsim.sweep(*four, batch=4, processes=1)
    assert terminal.getvalue() == ""


def test_the_environment_can_forbid_it(terminal, four, monkeypatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    mpsim.sweep(*four, batch=4, processes=1)
    assert terminal.getvalue() == ""


def test_a_process_without_stderr_works(four, monkeypatch) -> None:
    monkeypatch.setattr(sys, "__stderr__", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert mpsim.sweep(*four, batch=4, processes=1).complete


def test_a_kernel_is_a_notebook_and_a_shell_is_none(monkeypatch) -> None:
    for shell, expected in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert bars.in_notebook() is expected


@pytest.mark.parametrize("processes", [1, 2])
def test_trials_are_counted_to_the_end(four, processes) -> None:
    calls = []
    found = mpsim.simulate(
        *four, mpsim.Plan(dp=2), **drawn(processes=processes, progress=lambda *call: calls.append(call))
    )
    assert calls
    assert all(0 < done <= total for done, total in calls)
    assert calls[-1][0] == calls[-1][1]
    assert calls == sorted(calls)
    assert found == mpsim.simulate(*four, mpsim.Plan(dp=2), **drawn())
