"""Failures, simulated: how much of a run's time is useful where devices fail, and how often to save it."""

from mpsim.failures.model import Checkpoints, Event, Failures, Recovery, Stragglers
from mpsim.failures.outcome import Goodput
from mpsim.failures.run import goodput

__all__ = ["Checkpoints", "Event", "Failures", "Goodput", "Recovery", "Stragglers", "goodput"]
