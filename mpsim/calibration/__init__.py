"""Costs of a topology's links from measured collectives: logs of nccl-tests, or results of real runs."""

from mpsim.calibration.log import read_log
from mpsim.calibration.measurement import Measurement
from mpsim.calibration.run import Calibration, calibrate

__all__ = ["Calibration", "Measurement", "calibrate", "read_log"]
