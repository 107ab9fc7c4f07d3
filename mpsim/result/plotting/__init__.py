"""Pictures of results: the only place that loads matplotlib.

Each function returns a `matplotlib.figure.Figure` and shows nothing; ``ax=`` draws into axes of your own.

>>> import mpsim
>>> layers = [mpsim.Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"]
>>> topology = mpsim.parse_topology("chain:2,link=1GB/s@0")
>>> result = mpsim.simulate(mpsim.Workload.chain("two", layers), topology, mpsim.Plan(pp=2))
>>> len(mpsim.plotting.timeline(result).axes)
1
"""

from mpsim.calls import checked
from mpsim.result.plotting.agreement import predicted_and_measured
from mpsim.result.plotting.bars import breakdown, memory
from mpsim.result.plotting.curves import cdf, memory_over_time
from mpsim.result.plotting.described import alternative_text
from mpsim.result.plotting.goodput import goodput
from mpsim.result.plotting.holders import memory_by_holder
from mpsim.result.plotting.layers import layers
from mpsim.result.plotting.network import network
from mpsim.result.plotting.schedule import schedule
from mpsim.result.plotting.speedups import speedup
from mpsim.result.plotting.strong_and_weak import scaling
from mpsim.result.plotting.style import save_figure
from mpsim.result.plotting.timelines import timeline

__all__ = [
    "alternative_text",
    "breakdown",
    "cdf",
    "goodput",
    "layers",
    "memory",
    "memory_by_holder",
    "memory_over_time",
    "network",
    "predicted_and_measured",
    "save_figure",
    "scaling",
    "schedule",
    "speedup",
    "timeline",
]

globals().update({name: checked(globals()[name]) for name in __all__})
