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
from mpsim.errors import MpsimError

if TYPE_CHECKING:
    from mpsim.calibration import calibrate, read_log
    from mpsim.calibration.compute import calibrate_compute
    from mpsim.emulate.splitter import ModelSplitter
    from mpsim.emulate.trainer import ParallelTrainer
    from mpsim.explanation import Explanation, explain
    from mpsim.failures import (
        Checkpoints,
        Event,
        Failures,
        Goodput,
        Recovery,
        Stragglers,
        goodput,
    )
    from mpsim.failures.file import load_goodput, save_goodput
    from mpsim.lowering.draws import Trials, Variability
    from mpsim.plan.model import Plan, load_plan, save_plan
    from mpsim.plan.sharding import Sharding
    from mpsim.result import plotting
    from mpsim.result.file import load_result, save_result
    from mpsim.result.model import Result
    from mpsim.result.perfetto import save_perfetto
    from mpsim.result.text import summary
    from mpsim.search.made_fit import MadeFit
    from mpsim.search.make_fit import make_fit
    from mpsim.search.run import best
    from mpsim.search.space import Axes
    from mpsim.search.study import Study
    from mpsim.simulation import Job, simulate, simulate_collectives, simulate_jobs
    from mpsim.sweeps import SweepResult, load_sweep, save_sweep, sweep
    from mpsim.topology.file import load_topology, save_topology
    from mpsim.topology.model import Device, Link, Topology
    from mpsim.topology.show import draw
    from mpsim.topology.spec import parse_topology
    from mpsim.workload.configured import configured
    from mpsim.workload.example import Example
    from mpsim.workload.file import load_workload, save_workload
    from mpsim.workload.model import Layer, Workload
    from mpsim.workload.show import show_workload
    from mpsim.workload.trace import trace

__version__ = "0.2.0"
__all__ = [
    "Axes",
    "Checkpoints",
    "Device",
    "Event",
    "Example",
    "Explanation",
    "Failures",
    "Goodput",
    "Job",
    "Layer",
    "Link",
    "MadeFit",
    "ModelSplitter",
    "MpsimError",
    "ParallelTrainer",
    "Plan",
    "Recovery",
    "Result",
    "Sharding",
    "Stragglers",
    "Study",
    "SweepResult",
    "Topology",
    "Trials",
    "Variability",
    "Workload",
    "best",
    "calibrate",
    "calibrate_compute",
    "configured",
    "draw",
    "explain",
    "goodput",
    "load_goodput",
    "load_plan",
    "load_result",
    "load_sweep",
    "load_topology",
    "load_workload",
    "make_fit",
    "parse_topology",
    "plotting",
    "read_log",
    "save_goodput",
    "save_perfetto",
    "save_plan",
    "save_result",
    "save_sweep",
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


# Where each name is from. None is imported before it is used: `mpsim --help` needs none, a sweep no tracer.
_FROM = {
    "calibration": ("calibrate", "read_log"),
    "calibration.compute": ("calibrate_compute",),
    "emulate.splitter": ("ModelSplitter",),
    "emulate.trainer": ("ParallelTrainer",),
    "explanation": ("Explanation", "explain"),
    "failures": ("Checkpoints", "Event", "Failures", "Goodput", "Recovery", "Stragglers", "goodput"),
    "failures.file": ("load_goodput", "save_goodput"),
    "lowering.draws": ("Trials", "Variability"),
    "plan.model": ("Plan", "load_plan", "save_plan"),
    "plan.sharding": ("Sharding",),
    "result.plotting": ("plotting",),
    "result.file": ("load_result", "save_result"),
    "result.model": ("Result",),
    "result.perfetto": ("save_perfetto",),
    "result.text": ("summary",),
    "search.made_fit": ("MadeFit",),
    "search.make_fit": ("make_fit",),
    "search.run": ("best",),
    "search.space": ("Axes",),
    "search.study": ("Study",),
    "simulation": ("Job", "simulate", "simulate_collectives", "simulate_jobs"),
    "sweeps": ("SweepResult", "load_sweep", "save_sweep", "sweep"),
    "topology.file": ("load_topology", "save_topology"),
    "topology.model": ("Device", "Link", "Topology"),
    "topology.show": ("draw",),
    "topology.spec": ("parse_topology",),
    "workload.configured": ("configured",),
    "workload.example": ("Example",),
    "workload.file": ("load_workload", "save_workload"),
    "workload.model": ("Layer", "Workload"),
    "workload.show": ("show_workload",),
    "workload.trace": ("trace",),
}
_ROOMS = {name: room for room, names in _FROM.items() for name in names}
# Models are traced on machines that have torch and little else; stored ones are replayed on others.
_INSTALL = {"simpy": ("simpy", "simpy"), "torch": ("PyTorch", "'mpsim[trace]'")}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'mpsim' has no attribute {name!r}")
    try:
        room = import_module(f"mpsim.{_ROOMS[name]}")
    except ModuleNotFoundError as error:
        if error.name not in _INSTALL:
            raise
        what, install = _INSTALL[error.name]
        raise MpsimError(f"mpsim.{name} needs {what}, which is not installed: pip install {install}") from None
    found = globals()[name] = room if name == "plotting" else getattr(room, name)
    return found


def __dir__() -> list[str]:
    """Return the public names, used or not, and no others."""
    return sorted(__all__)
