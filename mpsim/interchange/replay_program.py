"""Replay a program that came from elsewhere, with the same accounts as a plan's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mpsim.calls import checked
from mpsim.lowering.draws import Trials
from mpsim.program.model import Program
from mpsim.result.model import Result
from mpsim.simulation.run import Label, play
from mpsim.topology.model import Topology

__all__ = ["replay_program"]


@checked
def replay_program(program: Program, topology: Topology | str | Path, *, name: str, plan: str = "as traced") -> Result:
    """Replay a program on a topology and account for its step.

    Nothing is said of memory: a program that was read from a trace holds none.

    Parameters
    ----------
    program : Program
        What runs, such as `load_chakra` makes.
    topology : Topology
        Where.
    name, plan : str
        What the result calls the workload and the plan.

    Raises
    ------
    MpsimError
        The program cannot finish, or names a device or link that the topology does not have.

    Examples
    --------
    >>> from mpsim.program.model import Stream, Task
    >>> from mpsim.topology.model import Device
    >>> one = Topology(name="one", devices=(Device(name="d0"),))
    >>> tasks = (Task("a", "compute", (0,), duration_s=0.5),)
    >>> replay_program(Program(streams=(Stream(device=0, name="compute"),), tasks=tasks), one, name="a").step_s
    0.5
    """
    topology = Topology.of(topology)
    devices = tuple(replace(device, memory_bytes=0) for device in topology.devices)
    return play(
        lambda draw: program,
        replace(topology, devices=devices),
        range(len(devices)),
        trials=Trials(),
        random=False,
        spans=True,
        label=Label(workload=name, plan=plan),
    )
