"""What reports are made of in tests: a small study, and one whose every name comes from a stranger."""

from dataclasses import replace
from functools import cache

from mpsim.documents import Provenance
from mpsim.plan.model import Plan
from mpsim.report.gather import Given, gather
from mpsim.report.material import Source
from mpsim.report.page import page
from mpsim.result.model import DeviceUse, MemoryUse, Result, Spans, Timeline
from mpsim.search.found import Found
from mpsim.search.rates import Rates
from mpsim.search.run import best
from mpsim.search.space import Axes
from mpsim.search.study import Study
from mpsim.search.text import counted
from mpsim.topology.model import Topology
from mpsim.topology.spec import parse_topology
from mpsim.workload.model import Layer, Workload

EVIL = "\"'><img src=http://evil.invalid/x onerror=alert(1)></script><script>document.title='owned'</script>\u202e"
CLUSTER = "nodes:2,per_node=2,inside=nvlink4,between=ib_ndr,memory=8GiB"


def workload(name: str = "four") -> Workload:
    layers = [
        Layer.given(layer, forward_s=1.0, backward_s=2.0, parameter_bytes=2**28, saved_bytes=2**27) for layer in "abcd"
    ]
    return Workload.chain(name, layers, activation_bytes=2**20)


def topology() -> Topology:
    return parse_topology(CLUSTER)


@cache
def study(name: str = "four") -> Study:
    return Study(workload(name), topology())


@cache
def found(name: str = "four") -> Found:
    return best(study(name), batch=8, axes=Axes(schedules=("1f1b", "gpipe")), top=4, processes=1)


def given(name: str = "four", **more: object) -> Given:
    own = study(name)
    return replace(
        Given(
            sweep=found(name).sweep, table="best.csv", study=own, workload=own.workload, topology=own.topology,
            rates=Rates.of(own.workload, own.topology), plans=dict(found(name).plans),
            counted=tuple(counted(found(name))), sources=(Source(what="workload", name=name),),
        ),
        **more,
    )  # fmt: skip


@cache
def material(name: str = "four"):
    return gather(given(name))


def hostile():
    """A result of which every text comes from a stranger."""
    spans = Spans(
        name=(EVIL, EVIL), kind=(EVIL, "send"), axis=("", EVIL), devices=((0,), (0,)), stage=(0, 0), microbatch=(0, 0),
        bytes=(0, 8), start_s=(0.0, 1.0), end_s=(1.0, 2.0),
    )  # fmt: skip
    held = Timeline(holder=EVIL, time_s=(0.0, 1.0), bytes=(0, 64))
    use = DeviceUse(
        name=EVIL, type=EVIL, compute_s=1.0, exposed_communication_s=1.0, idle_s=0.0,
        memory=MemoryUse(activations_bytes=64, timeline_s=(0.0, 1.0), timeline_bytes=(0, 64), by_holder=(held,)),
    )  # fmt: skip
    return Result(
        workload=EVIL, topology=EVIL, plan=EVIL, runtime=EVIL, measured_on=EVIL, baseline=EVIL, baseline_step_s=4.0,
        step_s=2.0, trial_step_s=(2.0,), free_step_s=1.0, global_batch=4, caveats=(EVIL,), notes=(EVIL,),
        devices=(use,), spans=spans, provenance=Provenance(command=EVIL, machine=EVIL),
    )  # fmt: skip


def hostile_page():
    result = hostile()
    real = replace(result, made_by="emulate")
    source = Source(what=EVIL, name=EVIL, provenance=result.provenance)
    layers = [Layer.given(f"{EVIL}{i}", forward_s=1.0, backward_s=2.0) for i in range(2)]
    work = replace(Workload.chain(EVIL, layers), notes=(EVIL,), provenance=result.provenance, optimizer=EVIL)
    plain = topology()
    cluster_ = replace(
        plain, name=EVIL, devices=tuple(replace(one, type=EVIL) for one in plain.devices),
        links=tuple(replace(link, type=EVIL) for link in plain.links),
    )  # fmt: skip
    whole = gather(Given(results=[result], real=[real], sources=(source,), counted=(EVIL, EVIL)))
    return page(replace(whole, workload=work, topology=cluster_, plan=Plan(dp=2), missing={"explanation": EVIL}))
