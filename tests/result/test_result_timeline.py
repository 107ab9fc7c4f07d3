"""Timelines: a row for each distinct rank, gaps that say what they are, phases, zooms, several results."""

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from random_cases import cases

from mpsim.errors import MpsimError
from mpsim.result import plotting
from mpsim.result.gaps import gaps
from mpsim.result.model import Spans
from mpsim.result.phases import phases
from mpsim.result.rows import distinct_rows
from mpsim.simulation import simulate


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def texts(ax, *, numbers):
    return sorted(text.get_text() for text in ax.texts if text.get_text().isdigit() == numbers)


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def drawn(ax):
    """Boxes by entry of the legend."""
    return {one.get_label(): len(one.get_paths()) for one in ax.collections}


def test_ranks_that_do_the_same_share_a_row(replay):
    result = replay(replicas=2, split=True)
    (ax,) = plotting.timeline(result).axes
    assert names(ax) == [f"stage {i}: gpu{i} × 2" for i in range(4)]
    assert ax.get_ylim() == (4, 0)
    assert ax.get_xlabel() == "time (ms)"
    shown = [devices for devices in result.spans.devices for device in devices if device < 4]
    spans = {name: count for name, count in drawn(ax).items() if not name.startswith(("bubble", "waits"))}
    assert sum(spans.values()) == len(shown)
    assert legend(ax.figure) == [
        "forward", "backward input", "backward weight", "optimizer", "pp transfer", "dp transfer",
        "waits for a transfer", "bubble (25 % of it behind transfers)", f"step end ({result.step_s * 1e3:.3g} ms)",
    ]  # fmt: skip


def test_numbers_and_gaps_are_written_where_there_is_room(pipeline, replay):
    (ax,) = plotting.timeline(pipeline).axes
    assert texts(ax, numbers=True) == sorted([str(i) for i in range(8)] * 2 * 4)
    assert set(texts(ax, numbers=False)) == {"bubble"}
    whole = plotting.timeline(replay(stages=16, replicas=4, microbatches=64), part="whole").axes[0]
    assert texts(whole, numbers=True) == []


def test_of_ranks_that_differ_in_times_alone_the_slowest_replica_is_drawn(replay):
    result = replay(replicas=8)  # 32 devices
    spans = result.spans

    def later(i):
        """Replica 5 takes longer over all, the others each a little longer than the one before."""
        replica = spans.devices[i][0] // 4
        return 1.0 if len(spans.devices[i]) > 2 else 0.75 if replica == 5 else 0.5 + replica / 128

    moved = {edge: tuple(x * later(i) for i, x in enumerate(getattr(spans, edge))) for edge in ("start_s", "end_s")}
    rows = distinct_rows(replace(result, spans=replace(spans, **moved)))
    assert [(row.name, row.device, row.alike) for row in rows] == [
        (f"stage {i}: gpu{20 + i} × 8", 20 + i, False) for i in range(4)
    ]
    title = plotting.timeline(replace(result, spans=replace(spans, **moved))).axes[0].get_title(loc="left")
    assert "of replicas whose times differ, the slowest is drawn" in title


def test_rows_of_folded_results_keep_their_counts(pipeline):
    devices = tuple(replace(device, count=16) for device in pipeline.devices)
    rows = distinct_rows(replace(pipeline, devices=devices))
    assert [row.name for row in rows] == [f"stage {i}: gpu{i} × 16" for i in range(4)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_gaps_and_computations_fill_the_step(case):
    result = simulate(case.workload, case.topology, case.plan)
    for device, use in enumerate(result.devices):
        found = gaps(result, device)
        total = {cause: math.fsum(gap.end_s - gap.start_s for gap in found if gap.cause == cause) for cause in
                 ("wait", "launch", "bubble", "idle")}  # fmt: skip
        close = 1e-9 * max(result.step_s, 1e-12)
        assert math.isclose(total["wait"], use.exposed_communication_s, abs_tol=close)
        assert math.isclose(sum(total.values()) + use.compute_s, result.step_s, abs_tol=close)
        assert not (total["bubble"] and total["idle"])


def test_what_waits_for_its_launch_says_so(pipeline):
    spans = Spans(
        name=("0F0",) * 2, kind=("launch", "forward"), axis=("",) * 2, devices=((0,),) * 2, stage=(0,) * 2,
        microbatch=(0,) * 2, bytes=(0,) * 2, start_s=(0.0, 0.25), end_s=(0.25, 1.0),
    )  # fmt: skip
    result = replace(pipeline, spans=spans, devices=pipeline.devices[:1], step_s=2.0)
    assert [tuple(gap) for gap in gaps(result, 0)] == [(0.0, 0.25, "launch"), (1.0, 2.0, "bubble")]
    real = replace(result, devices=(replace(result.devices[0], bubble_s=None),))
    assert [gap.cause for gap in gaps(real, 0)] == ["launch", "idle"]


def test_the_steady_state_is_when_all_have_begun_backwards_and_none_is_done_with_forwards(replay):
    tick = 2**-10
    result = replay(stages=2, microbatches=8, send_s=0.0)
    # 1F1B of two stages: 0 runs F0 F1 . B0 F2 B1 ...; its last forward is over after all of its backwards but two.
    assert [(phase.name, phase.start_s / tick, phase.end_s / tick) for phase in phases(result)] == [
        ("warm-up", 0, 4), ("steady-state", 4, 22), ("cool-down", 22, 27.5),
    ]  # fmt: skip
    assert phases(replay(stages=1)) == ()


def test_a_long_step_is_enlarged_below(replay):
    result = replay(stages=4, microbatches=64)
    whole, *zooms = plotting.timeline(result).axes
    assert [ax.get_title(loc="left") for ax in zooms] == ["warm-up", "steady-state", "cool-down"]
    assert "enlarged below" in legend(whole.figure)
    assert not texts(whole, numbers=True)
    assert {"0", "1"} <= set(texts(zooms[0], numbers=True))
    assert "63" in texts(zooms[2], numbers=True)
    limits = [ax.get_xlim() for ax in zooms]
    assert limits[0][0] == 0
    assert limits[2][1] == pytest.approx(result.step_s * 1e3)
    assert len({round(high - low, 6) for low, high in limits}) == 1
    assert all(ax.get_xlabel() == "time (ms)" for ax in (whole, *zooms))
    assert len(plotting.timeline(result, part="whole").axes) == 1


@pytest.mark.parametrize("part", ["warm-up", "steady-state", "cool-down"])
def test_a_part_alone(pipeline, part):
    (ax,) = plotting.timeline(pipeline, part=part).axes
    (phase,) = [one for one in phases(pipeline) if one.name == part]
    assert ax.get_xlim() == pytest.approx((phase.start_s * 1e3, phase.end_s * 1e3))
    assert f"{part} of a step" in ax.get_title(loc="left")


def test_several_results_stand_on_one_scale_of_time(pipeline, replay):
    figure = plotting.timeline([pipeline, replay(microbatches=4)])
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    assert pipeline.workload in figure.axes[0].get_title(loc="left")
    assert figure.axes[1].get_title(loc="left").startswith("dp=1 pp=4 tp=1 micro-batches=4 1f1b")
    assert "step end" in legend(figure)


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (0, {}, "a timeline of no results"),
        (1, {"part": "warmup"}, "unknown part of a timeline 'warmup'; did you mean 'warm-up'"),
        (1, {"part": "steady-state"}, "has no steady-state, as a pipeline has"),
    ],
)
def test_what_cannot_be_drawn_is_said(replay, given, more, message):
    with pytest.raises(MpsimError, match=message):
        plotting.timeline([replay(stages=1)] * given, **more)


def test_an_ax_is_of_one_result(pipeline):
    ax = plotting.timeline(pipeline).axes[0]
    with pytest.raises(MpsimError, match="2 results for one ax"):
        plotting.timeline([pipeline, pipeline], ax=ax)
