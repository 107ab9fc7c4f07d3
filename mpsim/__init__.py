"""Predict how fast each way of splitting a PyTorch model over several devices is.

>>> import mpsim
>>> layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
>>> work = mpsim.Workload.chain("four", layers, activation_bytes=1024)
>>> plan = mpsim.Plan(pp=4, microbatches=8, schedule="1f1b")
>>> result = mpsim.simulate(work, mpsim.parse_topology("chain:4,link=1GB/s@2us"), plan)
>>> round(result.speedup, 2)
2.91
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mpsim import interrupts  # noqa: F401  First: what follows takes time, in which Ctrl-C is heard.
from mpsim.calibration import calibrate, read_log
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Variability
from mpsim.plan.model import Plan, load_plan, save_plan
from mpsim.result.file import load_result, save_result
from mpsim.result.model import Result
from mpsim.result.perfetto import save_perfetto
from mpsim.result.text import summary
from mpsim.topology.file import load_topology, save_topology
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.show import draw
from mpsim.topology.spec import parse_topology
from mpsim.workload.file import load_workload, save_workload
from mpsim.workload.model import Layer, Workload
from mpsim.workload.show import show_workload

try:
    from mpsim.calibration.compute import calibrate_compute
    from mpsim.simulation import Job, simulate, simulate_collectives, simulate_jobs
    from mpsim.sweeps import sweep
except ModuleNotFoundError as error:
    # Models are traced on machines that have torch and little else; only replaying needs simpy.
    if error.name != "simpy":
        raise

if TYPE_CHECKING:
    from mpsim.emulate.splitter import ModelSplitter
    from mpsim.emulate.trainer import ParallelTrainer
    from mpsim.failures import Checkpoints, Event, Failures, Goodput, Recovery, Stragglers, goodput
    from mpsim.result import plotting
    from mpsim.workload.trace import trace

__version__ = "0.1.0"
__all__ = [
    "Checkpoints",
    "Device",
    "Event",
    "Failures",
    "Goodput",
    "Job",
    "Layer",
    "Link",
    "ModelSplitter",
    "MpsimError",
    "ParallelTrainer",
    "Plan",
    "Recovery",
    "Result",
    "Stragglers",
    "Topology",
    "Variability",
    "Workload",
    "calibrate",
    "calibrate_compute",
    "draw",
    "goodput",
    "load_plan",
    "load_result",
    "load_topology",
    "load_workload",
    "parse_topology",
    "plotting",
    "read_log",
    "save_perfetto",
    "save_plan",
    "save_result",
    "save_topology",
    "save_workload",
    "show_workload",
    "simulate",
    "simulate_collectives",
    "simulate_jobs",
    "summary",
    "sweep",
    "trace",
]


_FAILURES = ("Checkpoints", "Event", "Failures", "Goodput", "Recovery", "Stragglers", "goodput")
_EMULATE = {"ModelSplitter": "splitter", "ParallelTrainer": "trainer"}


def __getattr__(name: str) -> Any:
    """Import what needs torch or matplotlib on first use only."""
    if name == "trace":
        return import_module("mpsim.workload.trace").trace
    if name in _EMULATE:
        return _emulate(name)
    if name in _FAILURES:
        return _failures(name)
    if name == "plotting":
        return import_module("mpsim.result.plotting")
    if name in ("calibrate_compute", "simulate", "simulate_collectives", "sweep"):
        raise MpsimError(f"mpsim.{name} needs simpy, which is not installed: pip install simpy")
    raise AttributeError(f"module 'mpsim' has no attribute {name!r}")


def _failures(name: str) -> Any:
    try:
        return getattr(import_module("mpsim.failures"), name)
    except ModuleNotFoundError as error:
        if error.name != "simpy":
            raise
        raise MpsimError(f"mpsim.{name} needs simpy, which is not installed: pip install simpy") from None


def _emulate(name: str) -> Any:
    try:
        return getattr(import_module(f"mpsim.emulate.{_EMULATE[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MpsimError(f"mpsim.{name} needs PyTorch, which is not installed: pip install 'mpsim[trace]'") from None
