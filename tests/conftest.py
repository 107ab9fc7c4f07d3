"""What every test shares: examples of hypothesis are the same each time, no test is timed, and signals are heard."""

import gc
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("mpsim", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("mpsim")

# A shell's background jobs ignore Ctrl-C, those of nohup a hangup, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Where matplotlib has its list of fonts if nobody says otherwise: below the caches of tests it would be made ever anew.
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))


_MANY = 50  # modules: what less than these leave is not worth a walk over all
_imported = 0


@pytest.fixture(autouse=True)
def _imports_stay() -> None:
    """Keep what has been imported from the collector, which a trace runs before each of its measurements.

    PyTorch and transformers leave 300,000 lasting objects, and a walk over them takes 0.15 s: nine tenths of the trace
    of a small model.
    """
    global _imported
    if len(sys.modules) > _imported + _MANY:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture
def timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time each step as often as asked and no more, whatever its layers sum to.

    The layers of a model of a few microseconds miss its step where the machine is busy: it would be timed three times
    over, and have three times the samples.
    """
    monkeypatch.setattr("mpsim.workload.point.doubted", lambda check: False)


_caches = itertools.count()


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test know what another one computed, nor write into the user's own cache.

    The folder is made by who writes there: ``mktemp`` looks through all those of thousands of tests for the next name.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches" / str(next(_caches))))
