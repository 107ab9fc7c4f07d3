"""Many plans on one workload and topology: which are possible, which of them is fastest."""

from mpsim.sweep.file import load_sweep, save_sweep
from mpsim.sweep.model import SweepInterrupted, SweepResult
from mpsim.sweep.run import sweep
from mpsim.sweep.text import table

__all__ = ["SweepInterrupted", "SweepResult", "load_sweep", "save_sweep", "sweep", "table"]
