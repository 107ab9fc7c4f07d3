"""A trace that contradicts the step measured beside it: doubtful beyond 5 %, refused beyond 15 %."""

from dataclasses import replace

import pytest

from mpsim import Job, MpsimError, Plan, parse_topology, show_workload, simulate, simulate_jobs, summary, sweep
from mpsim.workload.layers import Cost, Fidelity, Samples
from mpsim.workload.model import Layer, StepCheck, Workload
from mpsim.workload.trust import cautions, doubts, in_words, times_of

TOPOLOGY = parse_topology("switch:4,link=inf@0")
GIVEN = Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=1024)


def traced(*ratios: tuple[int, float]) -> Workload:
    """One layer at each micro-batch, and a check of each that comes to a ratio."""
    costs = tuple(
        Cost(microbatch=size, fidelity=Fidelity.MEASURED,
             samples=Samples(forward_s=(float(size),), backward_input_s=(0.0,), backward_weight_s=(0.0,)))
        for size, _ in ratios
    )  # fmt: skip
    checks = tuple(StepCheck(microbatch=size, whole_s=(1.0,), layers_s=(ratio,)) for size, ratio in ratios)
    return Workload(name="w", layers=(Layer(name="a", costs=costs),), checks=checks, device="here", clock="wall")


@pytest.mark.parametrize(
    ("ratio", "fidelity"),
    [(1.0, "measured"), (1.05, "measured"), (0.95, "measured"), (1.051, "doubtful"), (0.9, "doubtful"),
     (1.15, "doubtful"), (0.85, "doubtful"), (1.151, None), (0.849, None), (2.0, None)],
)  # fmt: skip
def test_the_bounds(ratio, fidelity):
    work = traced((1, ratio))
    if fidelity is None:
        with pytest.raises(MpsimError, match=rf"layers sum to {ratio:.3g} of the whole step at micro-batch 1, more"):
            simulate(work, TOPOLOGY, Plan())
        assert simulate(work, TOPOLOGY, Plan(), unchecked=True).fidelity == "doubtful"
    else:
        result = simulate(work, TOPOLOGY, Plan())
        assert result.fidelity == fidelity
        assert (result.caveats != ()) == (fidelity == "doubtful")
        first = summary(result).splitlines()[0]
        assert first.startswith("caution: doubtful: layers sum to" if fidelity == "doubtful" else "w | ")


def test_between_two_points_both_bear_and_elsewhere_none_does():
    work = traced((1, 1.5), (4, 1.0), (8, 1.0), (16, 1.1))
    assert [check.microbatch for check in doubts(work, 2)] == [1]
    assert doubts(work, 4) == doubts(work, 6) == doubts(work, 32) == doubts(work, 4, 2) == []
    assert [check.microbatch for check in doubts(work, 9)] == [16]


def test_a_sweep_refuses_points_and_says_which():
    work = traced((1, 1.5), (2, 1.0))
    found = sweep(work, TOPOLOGY, batch=4, processes=1)
    assert found.ranked
    assert all(row["microbatch_size"] > 1 for row in found.ranked)
    assert any("at micro-batch 1, more than 15 % off" in reason for reason, _ in found.reasons)
    taken = sweep(work, TOPOLOGY, batch=4, processes=1, unchecked=True)
    assert taken.best["microbatch_size"] == 1
    assert taken.caveats == ("doubtful: layers sum to 1.5 of the whole step at micro-batch 1",)


def test_a_baseline_stands_on_no_point_that_is_refused():
    """At micro-batch 1 the trace says half of what a step takes: one device would seem twice as fast."""
    work = traced((1, 0.5), (4, 1.0))
    honest = replace(work, layers=(replace(work.layers[0], costs=(_cheap(work), work.layers[0].costs[1])),))
    result = simulate(honest, TOPOLOGY, Plan(batch=4))
    assert (result.baseline, result.speedup) == ("one device, 1 × micro-batch 4", 1.0)


def _cheap(work: Workload) -> Cost:
    cost = work.layers[0].costs[0]
    return replace(cost, samples=replace(cost.samples, forward_s=(0.1,)))


def test_jobs_refuse_too():
    job = Job(name="x", workload=traced((1, 1.5)), plan=Plan(dp=2))
    with pytest.raises(MpsimError, match=r"job 'x': workload 'w': layers sum to 1.5"):
        simulate_jobs([job], TOPOLOGY)
    (result,) = simulate_jobs([job], TOPOLOGY, unchecked=True)
    assert result.caveats == ("doubtful: layers sum to 1.5 of the whole step at micro-batch 1",)


def test_a_step_that_is_not_the_plain_one_is_doubtful_however_well_its_times_agree():
    check = StepCheck(
        microbatch=1, whole_s=(1.0,), layers_s=(1.0,), differences=("2 gradients missing", "loss 1, not 2")
    )
    work = replace(traced((1, 1.0), (2, 1.0)), checks=(check, StepCheck(microbatch=2, whole_s=(1.0,), layers_s=(1.0,))))
    result = simulate(work, TOPOLOGY, Plan())
    assert result.fidelity == "doubtful"
    phrase = "what was watched is not the plain step at micro-batch 1: 2 gradients missing and 1 more"
    assert result.caveats == (f"doubtful: {phrase}",)
    assert simulate(work, TOPOLOGY, Plan(batch=2)).fidelity == "measured"
    assert show_workload(work).count(": doubtful") == 1
    both = replace(check, layers_s=(1.1,))
    assert in_words(both) == f"layers sum to 1.1 of the whole step at micro-batch 1, and {phrase}"


def test_what_may_make_an_answer_most_wrong_comes_first():
    """A doubtful trace, then its scaling, then links that nobody measured."""
    work = replace(traced((1, 1.1)), device="NVIDIA H200")
    work = replace(work, layers=(replace(work.layers[0], shards=(GIVEN.shard(),)),))
    result = simulate(work, parse_topology("dgx_b200"), Plan(dp=2), rescale="roofline")
    assert [phrase.split(" ")[0] for phrase in result.caveats] == ["doubtful:", "scaled", "costs"]
    assert summary(result).splitlines()[0] == f"caution: {'; '.join(result.caveats)}"


def test_more_than_a_line_holds_is_said_below():
    result = replace(simulate(traced((1, 1.0)), TOPOLOGY, Plan()), caveats=("a", "b", "c", "d", "e"))
    lines = summary(result).splitlines()
    assert lines[0] == "caution: a; b; c; and 2 more"
    assert [line for line in lines[1:] if line.startswith("caution: ")] == ["caution: d", "caution: e"]


def test_what_a_trace_says_is_repeated():
    check = StepCheck(microbatch=1, whole_s=(1.0,), layers_s=(1.0,), differences=("2 gradients missing",))
    work = replace(traced((1, 1.0)), notes=("a cache was dropped",), checks=(check,))
    said = ("a cache was dropped", "2 gradients missing (micro-batch 1)")
    result = simulate(work, TOPOLOGY, Plan())
    assert result.notes == sweep(work, TOPOLOGY, batch=4, processes=1).notes == said
    assert summary(result).splitlines()[-3:] == ["", *(f"note: {note}" for note in said)]
    assert f"note: {said[1]}" in show_workload(work)
    assert "refused without --unchecked" in show_workload(traced((1, 1.5)))


def made(*fidelities: Fidelity, **said) -> Workload:
    """One layer of each fidelity."""
    layers = []
    for i, fidelity in enumerate(fidelities):
        (cost,) = GIVEN.costs
        layers.append(replace(GIVEN, name=f"l{i}", costs=(replace(cost, fidelity=fidelity),)))
    return Workload(name="w", layers=tuple(layers), device="T4", clock="wall", **said)


@pytest.mark.parametrize(
    ("fidelities", "told", "whose"),
    [
        ([Fidelity.MEASURED] * 2, (), ("measured on", "T4 (clock wall)")),
        (
            [Fidelity.ANALYTICAL] * 2,
            ("analytical: times are computed from the roofline of T4, not measured",),
            ("computed for", "T4 (by its roofline, not measured)"),
        ),
        (
            [Fidelity.MEASURED, Fidelity.ANALYTICAL],
            ("analytical: times of 1 of 2 layers are computed from the roofline of T4, not measured",),
            ("computed for", "T4 (in part by its roofline, not measured)"),
        ),
        (
            [Fidelity.MEASURED, Fidelity.GIVEN],
            ("given: times of 1 of 2 layers are given by hand, not measured",),
            ("given", "by hand, not measured; the rest is of T4 (clock wall)"),
        ),
    ],
)
def test_what_nobody_measured_is_not_said_to_be_measured(fidelities, told, whose):
    work = made(*fidelities)
    assert (cautions(work), times_of(work)) == (told, whose)
    assert " ".join(whose) in show_workload(work).splitlines()[0]
    weakest = Fidelity.weakest(*fidelities).value
    assert work.fidelity == weakest
    assert (f"fidelity={weakest!r}" in repr(work)) == bool(told)
    head = work._repr_html_().partition('<div class="head">')[0]
    assert all(text in head for text in told)
    assert ("caution" in head.partition("</style>")[2]) == bool(told)


def test_a_trace_that_misses_its_step_says_so_first_wherever_it_is_shown():
    assert cautions(traced((1, 1.0), (2, 1.1), (4, 0.8))) == (
        "doubtful: layers sum to 0.8 of the whole step at micro-batch 4",
        "doubtful: layers sum to 1.1 of the whole step at micro-batch 2",
    )


def test_a_step_of_rooflines_is_not_said_to_be_measured_on_the_device():
    lines = summary(simulate(made(Fidelity.ANALYTICAL), TOPOLOGY, Plan())).splitlines()
    assert lines[0].startswith("caution: analytical: rooflines of T4, not measurements")
    assert [line.split() for line in lines if "T4" in line][1:] == [["computed", "for", "T4"]]
    assert "measured on" not in summary(simulate(made(Fidelity.GIVEN), TOPOLOGY, Plan()))
