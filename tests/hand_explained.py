"""Small steps whose every moment can be worked out by hand."""

from dataclasses import replace

from mpsim.engine.replay import replay
from mpsim.explanation.critical import path_steps
from mpsim.explanation.kinds import Kinds
from mpsim.explanation.run import explain
from mpsim.program.model import Program
from mpsim.workload.model import Layer, Samples, Workload

FREE = "chain:2,link=inf@0"
SLOW = "chain:2,link=1kB/s@0"


def work(*times, activation_bytes=500, **given):
    """Return layers of so many seconds forward and backward."""
    layers = [
        Layer.given(name, forward_s=f, backward_s=b, **given) for name, (f, b) in zip("abcdef", times, strict=False)
    ]
    return Workload.chain("by hand", layers, activation_bytes=activation_bytes)


def launched(*times):
    """Return layers whose forward, and each half of whose backward, takes so long to launch, and so long."""
    layers = []
    for name, (host_s, device_s) in zip("abcdef", times, strict=False):
        made = Layer.given(name, forward_s=device_s, backward_s=2 * device_s)
        host = Samples(forward_s=(host_s,), backward_input_s=(host_s,), backward_weight_s=(host_s,), optimizer_s=(0.0,))
        layers.append(replace(made, costs=(replace(made.costs[0], host=host),)))
    return Workload.chain("launched", layers, activation_bytes=8)


def found(workload, topology, plan, **given):
    return explain(workload, topology, plan, what_ifs=False, **given)


def path(explanation):
    """Return (name, what, devices, from, until) of the tasks of a critical path."""
    return [(one.name, one.what, " ".join(one.devices), one.start_s, one.end_s) for one in explanation.path]


def parts(explanation):
    """Return the parts of a step by what they are called."""
    return {part.label: part.seconds for part in explanation.parts}


def path_of(streams, tasks, topology):
    """Return the critical path of a program."""
    program = Program(streams=tuple(streams), tasks=tuple(tasks))
    return path_steps(program, topology, replay(program, topology, releases=True), Kinds(program, topology))
