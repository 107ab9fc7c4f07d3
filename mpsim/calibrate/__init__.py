"""Costs of a topology's links from measured collectives: logs of nccl-tests, or results of real runs."""

from mpsim.calibrate.log import read_log
from mpsim.calibrate.measurement import Measurement
from mpsim.calibrate.run import Calibration, calibrate

__all__ = ["Calibration", "Measurement", "calibrate", "read_log"]
