"""Lower, replay, account: the one call that everything above makes."""

from mpsim.simulation.collectives import simulate_collectives
from mpsim.simulation.jobs import Job, JobResult, simulate_jobs
from mpsim.simulation.run import simulate

__all__ = ["Job", "JobResult", "simulate", "simulate_collectives", "simulate_jobs"]
