"""The workshop form: a list of collective sizes, exchanged one after another, with no compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mpsim.calls import checked
from mpsim.collectives.traffic import collective
from mpsim.errors import MpsimError
from mpsim.lowering.bind import collective_scripts
from mpsim.lowering.draws import Draw, Seed, Trials, Variability, delayed
from mpsim.lowering.emit import emit
from mpsim.plan.runtimes import resolve_runtime
from mpsim.program.model import Program, Stream, Task
from mpsim.result.model import Result
from mpsim.result.text import MOST_DEVICES
from mpsim.simulation.run import Label, play
from mpsim.topology.model import Device, Topology
from mpsim.topology.routes import Routes

__all__ = ["simulate_collectives"]


@checked
def simulate_collectives(
    sizes: Sequence[int],
    topology: Topology | str | Path,
    *,
    kind: str = "all_reduce",
    algorithm: str = "ring",
    runtime: str = "ideal",
    devices: int | None = None,
    trials: int = 1,
    rng: Seed = 0,
    variability: Variability | None = None,
    processes: int = 1,
    fold: bool | None = None,
) -> Result:
    """Replay a list of collectives, in order, trial after trial.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each collective's whole tensor.
    topology : Topology
        What carries them.
    kind, algorithm : str
        Of every collective.
    runtime : str
        What executes them; ``torch-gloo`` has an all-reduce of its own, whatever the algorithm.
    devices : int, optional
        How many of the topology's devices take part, the first ones; None: all.
    trials, rng, variability, processes
        As in `simulate`; without link jitter nothing is random.
    fold : bool, optional
        Let the first device stand for all, where they are alike: each takes part in each collective, which is one
        event. By default from 17 devices on.

    Raises
    ------
    MpsimError
        No sizes, more devices than there are, or a collective that cannot be.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> from mpsim.topology.wire import Wire
    >>> simulate_collectives([1024, 512], ring(4, link=Wire(1024.0)), trials=8).step_s
    2.25
    """
    topology = Topology.of(topology)
    count = len(topology.devices) if devices is None else devices
    if count > len(topology.devices):
        raise MpsimError(f"{count} devices asked for, topology {topology.name!r} has {len(topology.devices)}")
    if not sizes:
        raise MpsimError("no collective sizes: give bytes, as in 2600,33024,131584,803840")
    if resolve_runtime(runtime).two_ended:
        posted = collective_scripts(sizes, kind, range(count))
        program = emit(Routes(topology), posted, runtime, algorithm)
    else:
        folded = count > MOST_DEVICES if fold is None else fold
        program = _program(tuple(sizes), topology, kind, algorithm, count, folded and _alike(topology.devices[:count]))
    return play(
        partial(_draw, program),
        topology,
        range(count),
        trials=Trials(count=trials, rng=rng, variability=variability or Variability(), processes=processes),
        random=False,
        spans=True,
        label=Label(
            workload=f"{len(sizes)} collectives of {sum(sizes)} bytes",
            plan=f"{algorithm} {kind} over {count} devices",
            runtime=runtime,
        ),
    )


def _program(
    sizes: tuple[int, ...], topology: Topology, kind: str, algorithm: str, count: int, folded: bool
) -> Program:
    routes, ranks = Routes(topology), range(count)
    streams = ranks[:1] if folded else ranks
    tasks = [
        Task(f"{kind} {i}", kind, tuple(streams), traffic=collective(routes, kind, ranks, size, algorithm=algorithm))
        for i, size in enumerate(sizes)
    ]
    return Program(
        streams=tuple(Stream(device=device, name="collectives") for device in streams),
        tasks=tuple(tasks),
        stands_for={0: count} if folded else {},
    )


def _alike(devices: Sequence[Device]) -> bool:
    """Whether devices differ in nothing that a result without computations says of them."""
    return len({(device.type, device.memory_bytes) for device in devices}) == 1


def _draw(program: Program, draw: Draw | None) -> Program:
    if draw is None:
        return program
    return replace(program, tasks=delayed(program.tasks, draw))
