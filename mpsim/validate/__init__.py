"""Predictions held against measurements: real runs of the plans that were simulated."""

from mpsim.validate.cases import GRID, LOOPBACK, QUICK, Case, Wire
from mpsim.validate.compare import Comparison, compare_case
from mpsim.validate.file import load_rows, save_rows
from mpsim.validate.model import Validation
from mpsim.validate.parts import differences
from mpsim.validate.text import table

__all__ = [
    "GRID",
    "LOOPBACK",
    "QUICK",
    "Case",
    "Comparison",
    "Validation",
    "Wire",
    "compare_case",
    "differences",
    "load_rows",
    "save_rows",
    "table",
]
