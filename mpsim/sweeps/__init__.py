"""Many plans on one workload and topology: which are possible, which of them is fastest."""

from mpsim.sweeps.file import load_sweep, save_sweep
from mpsim.sweeps.model import SweepInterrupted, SweepResult
from mpsim.sweeps.run import sweep
from mpsim.sweeps.strong_and_weak import scaling_rows
from mpsim.sweeps.text import scaling_text, table

__all__ = [
    "SweepInterrupted",
    "SweepResult",
    "load_sweep",
    "save_sweep",
    "scaling_rows",
    "scaling_text",
    "sweep",
    "table",
]
