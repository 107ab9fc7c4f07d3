"""Lower, replay, account: the one call that everything above makes."""

from mpsim.simulate.collectives import simulate_collectives
from mpsim.simulate.run import simulate

__all__ = ["simulate", "simulate_collectives"]
