"""Lower, replay, account: the one call that everything above makes."""

from mpsim.simulate.collectives import simulate_collectives
from mpsim.simulate.jobs import Job, JobResult, simulate_jobs
from mpsim.simulate.run import simulate

__all__ = ["Job", "JobResult", "simulate", "simulate_collectives", "simulate_jobs"]
