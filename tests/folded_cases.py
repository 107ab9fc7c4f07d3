"""Folded plans beside whole ones, and clusters on which there is something to fold."""

from dataclasses import replace

from hypothesis import strategies as st

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.lowering.alike import fold
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.plan.model import Plan
from mpsim.program.account import account_devices, account_traffic
from mpsim.topology.builders import fully_connected, nodes, ring, switch, torus
from mpsim.topology.model import Topology


def compared(workload, topology: Topology, plan: Plan) -> int:
    """Check that a folded plan says of every device what the whole one does; return how many were simulated."""
    lowering = lower(workload, topology, plan)
    folding = fold(lowering, [instructions_of(lowering, p) for p in range(plan.pp)])
    runs = []
    for program in (program_of(lowering), program_of(lowering, folded=True)):
        try:
            timing, free = replay(program, topology), replay(program, topology, free=True)
        except MpsimError as error:  # of a schedule whose sends wait for one another
            runs.append(str(error).partition(":")[0])
            continue
        uses = account_devices(program, topology, lowering.place, timing, free)
        devices = sorted(program.stands_for or lowering.place)
        runs.append((program, timing, free, dict(zip(devices, uses, strict=True))))
    if "deadlock" in runs:
        assert runs == ["deadlock", "deadlock"]
        return plan.ranks
    (whole, timing, free, each), (folded, timing_2, free_2, few) = runs
    assert (timing.step_s, free.step_s) == (timing_2.step_s, free_2.step_s)
    assert account_traffic(whole) == account_traffic(folded)
    for device, use in each.items():
        own = folding.members((device,))[0]
        assert replace(few[own], name=use.name, count=1) == use
        assert spans(whole, timing, device) == spans(folded, timing_2, own)
    if folded.stands_for:
        assert sum(use.count for use in few.values()) == plan.ranks
    return len(few)


def spans(program, timing, device: int):
    """Return what a device does, in the order of time."""
    own = {i for i, stream in enumerate(program.streams) if stream.device == device}
    return sorted(
        (start, end, task.name, task.kind, task.stage, task.microbatch)
        for task, start, end in zip(program.tasks, timing.start_s, timing.end_s, strict=True)
        if own.intersection(task.streams)
    )


@st.composite
def clusters(draw, n: int) -> Topology:
    """Clusters that are alike all over, but for a device or a link in some."""
    wire = draw(st.sampled_from(["1024B/s@0", "1000B/s@100ms", "3000B/s@250ms", "inf@0"]))
    outer = draw(st.sampled_from(["64B/s@1s", "700B/s@300ms"]))
    kind = draw(st.sampled_from(["nodes", "nodes", "nodes", "ring", "switch", "full", "torus"]))
    per_node = draw(st.sampled_from([k for k in (1, 2, 3, 4, 8) if n % k == 0]))
    if kind == "nodes":
        found = nodes(n // per_node, per_node=per_node, nics=per_node, inside=wire, between=outer)
    elif kind == "torus":
        found = torus(per_node, n // per_node, link=wire) if per_node > 1 and n > per_node else switch(n, link=wire)
    else:
        found = {"ring": ring, "switch": switch, "full": fully_connected}[kind](max(n, 2), link=wire)
    broken = draw(st.sampled_from(["", "", "device", "link"]))
    if broken == "device":
        at = draw(st.integers(0, len(found.devices) - 1))
        slow = replace(found.devices[at], speed=0.5)
        found = replace(found, devices=(*found.devices[:at], slow, *found.devices[at + 1 :]))
    if broken == "link":
        at = draw(st.integers(0, len(found.links) - 1))
        narrow = replace(found.links[at], bandwidth_bytes_per_s=50.0)
        found = replace(found, links=(*found.links[:at], narrow, *found.links[at + 1 :]))
    return found
