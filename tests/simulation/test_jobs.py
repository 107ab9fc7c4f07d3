"""Several jobs on one cluster, by hand: what they share slows them, what they do not leaves them alone."""

from dataclasses import replace

import pytest

from mpsim import Layer, Plan, Workload, simulate
from mpsim.errors import MpsimError
from mpsim.simulation import Job, simulate_jobs
from mpsim.topology.builders import switch
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.wire import Wire

KIB = 2.0**10


def barbell(trunk: float = KIB) -> Topology:
    """Two devices a side, and one link each way between the sides."""
    ends = [("d0", "left"), ("d1", "left"), ("d2", "right"), ("d3", "right"), ("left", "right")]
    links = [
        Link(source=a, target=b, bandwidth_bytes_per_s=trunk if "d" not in x else 64 * KIB)
        for x, y in ends
        for a, b in ((x, y), (y, x))
    ]
    return Topology(
        name="barbell",
        devices=tuple(Device(name=f"d{i}") for i in range(4)),
        switches=("left", "right"),
        links=tuple(links),
    )


def job(name: str, devices: tuple[int, ...], compute_s: float = 3.0, gradients: int = 1024) -> Job:
    layers = [Layer.given("a", forward_s=compute_s / 3, backward_s=compute_s * 2 / 3, parameter_bytes=gradients)]
    return Job(name=name, workload=Workload.chain(name, layers), plan=Plan(dp=len(devices), devices=devices))


def test_two_alike_share_the_trunk_in_step():
    """3 s of computing, then a ring of two moves its 1 KiB across the trunk each way: 1 s alone, 2 s at half of it."""
    found = simulate_jobs([job("x", (0, 2)), job("y", (1, 3))], barbell())
    assert [(one.alone_step_s, one.step_s, one.least_step_s, one.most_step_s) for one in found] == [(4, 5, 5, 5)] * 2
    assert [one.slowdown for one in found] == [1.25, 1.25]
    assert [one.steps for one in found] == [8, 8]


def test_jobs_on_links_of_their_own_leave_each_other_alone():
    found = simulate_jobs([job("x", (0, 1)), job("y", (2, 3), compute_s=1.5)], barbell())
    assert [one.slowdown for one in found] == [1.0, 1.0]
    assert found[1].steps > found[0].steps


def test_a_job_that_computes_only_slows_nobody():
    layers = [Layer.given("a", forward_s=7.0, backward_s=0.0)]
    quiet = Job(name="quiet", workload=Workload.chain("q", layers), plan=Plan())
    found = simulate_jobs([job("x", (0, 2)), quiet], barbell())
    assert [one.slowdown for one in found] == [1.0, 1.0]
    assert found[1].devices == (1,)  # The first that is free.


def test_unlike_jobs_drift_past_each_other():
    """Communication of 1 s every 4 and of 4 s every 4.5: between no slowdown and twice as long on the trunk."""
    found = simulate_jobs([job("x", (0, 2)), job("y", (1, 3), compute_s=0.5, gradients=4096)], barbell())
    x, y = found
    assert x.alone_step_s == 4
    assert y.alone_step_s == 4.5
    assert 4 <= x.least_step_s <= x.step_s <= x.most_step_s <= 5
    assert 4.5 < y.step_s <= y.most_step_s <= 5.5
    assert min(x.steps, y.steps) == 8


def test_one_job_alone_takes_its_step():
    work = job("x", (0, 2))
    (found,) = simulate_jobs([work], barbell(), steps=3)
    assert found.step_s == found.alone_step_s == simulate(work.workload, barbell(), work.plan).step_s
    assert found.steps == 3


def test_pipelines_and_runtimes_are_repeated_too():
    layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abcd"]
    work = Workload.chain("four", layers, activation_bytes=1024)
    for runtime in ("ideal", "torch-gloo"):
        plan = Plan(pp=2, microbatches=4, runtime=runtime, devices=(0, 2))
        (found,) = simulate_jobs([Job(name="p", workload=work, plan=plan)], barbell(), steps=2)
        assert found.step_s == found.alone_step_s


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([], "no jobs"),
        ([job("x", (0, 1)), job("x", (2, 3))], "two jobs are called 'x'"),
        ([job("x", (0, 1)), job("y", (1, 2))], "jobs 'x' and 'y' both have device 1"),
        ([job("x", (0, 1, 2)), replace(job("y", (3,)), plan=Plan(dp=2))], "job 'y' needs 2 devices, 1 of 4 are left"),
        ([job("x", (0, 9))], "job 'x': plan places a rank on device 9"),
        ([job("x", (0, 1)), job("y", (2, 3), compute_s=3e-9, gradients=0)], "too many steps"),
        ([job("x", (0,), compute_s=0.0, gradients=0)], "lasts 0.0 s"),
    ],
)
def test_what_cannot_be_is_one_line(jobs, message):
    with pytest.raises(MpsimError, match=message) as error:
        simulate_jobs(jobs, switch(4, link=Wire(KIB)))
    assert "\n" not in str(error.value)
