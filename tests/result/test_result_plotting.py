import subprocess
import sys
from dataclasses import replace

import pytest
from drawn import assert_nothing_is_clipped, assert_tick_labels_stand_apart, legend
from matplotlib.figure import Figure

from mpsim.errors import MpsimError
from mpsim.result import plotting
from mpsim.result.model import Result, Spans

LONG = "meta-llama/Llama-3.1-70B with a long suffix --set n_layer=4 --set hidden=8192 --dtype bfloat16 --sequence 8192"
OF_ONE = (
    plotting.timeline,
    plotting.breakdown,
    plotting.memory,
    plotting.memory_over_time,
    plotting.memory_by_holder,
    plotting.cdf,
)
OF_SEVERAL = (plotting.breakdown, plotting.cdf, plotting.speedup)


@pytest.fixture(scope="session")
def large(replay) -> Result:
    return replay(stages=16, replicas=4, microbatches=16, capacity_bytes=300 * 2**20)


@pytest.mark.parametrize("draw", OF_ONE)
@pytest.mark.parametrize("which", ["pipeline", "noisy", "large"])
def test_pictures_of_one_result_clip_nothing(draw, which, request):
    figure = draw(request.getfixturevalue(which))
    assert isinstance(figure, Figure)
    assert_nothing_is_clipped(figure)
    assert_tick_labels_stand_apart(figure)


@pytest.mark.parametrize("draw", OF_ONE)
def test_long_names_are_wrapped(draw, noisy):
    assert_nothing_is_clipped(draw(replace(noisy, workload=LONG, plan=LONG, topology=LONG)))


@pytest.mark.parametrize("draw", OF_SEVERAL)
def test_pictures_of_several_results_clip_nothing(draw, pipeline, noisy, replay, large):
    results = [pipeline, noisy, replay(stages=1), replay(replicas=4), large, replace(noisy, plan=LONG)]
    results = [replace(result, global_batch=128) for result in results]  # of unequal ones speedups do not compare
    figure = draw(results)
    assert_nothing_is_clipped(figure)
    assert_tick_labels_stand_apart(figure)


@pytest.mark.parametrize("draw", OF_ONE)
def test_axes_of_ones_own(draw, pipeline):
    own = Figure(figsize=(12, 4))
    ax = own.subplots(1, 2)
    assert draw(pipeline, ax=ax[1]) is own
    assert not ax[0].has_data()
    assert ax[1].get_xlabel()


@pytest.mark.parametrize("draw", OF_ONE)
def test_axes_are_labelled_and_the_subject_named(draw, pipeline):
    axes = draw(pipeline).axes
    assert len(axes) == (4 if draw is plotting.memory_by_holder else 1)
    assert axes[-1].get_xlabel()
    assert pipeline.workload in axes[0].get_title(loc="left")
    assert pipeline.topology in axes[0].get_title(loc="left")


@pytest.mark.parametrize("draw", [*OF_ONE, plotting.speedup])
def test_what_may_make_it_wrong_comes_first(draw, pipeline):
    title = draw(replace(pipeline, caveats=("doubtful: as measured",))).axes[0].get_title(loc="left")
    assert title.startswith("caution: doubtful: as measured\n")


def test_a_pass_cut_in_pieces_is_numbered_once(pipeline):
    spans = Spans(
        name=("0B0",) * 3,
        kind=("backward",) * 3,
        axis=("",) * 3,
        devices=((0,),) * 3,
        stage=(0,) * 3,
        microbatch=(0,) * 3,
        bytes=(0,) * 3,
        start_s=(0.0, 1.0, 2.0),
        end_s=(1.0, 2.0, 3.0),
    )
    (text,) = plotting.timeline(replace(pipeline, spans=spans)).axes[0].texts
    assert text.get_text() == "0"
    assert text.get_position()[0] == 1.5


def test_devices_that_hold_the_same_share_a_curve(replay):
    (ax,) = plotting.memory_over_time(replay(replicas=2)).axes
    assert legend(ax.figure) == [f"gpu{i} and 1 alike" for i in range(4)]
    assert [max(line.get_ydata()) for line in ax.lines] == [192, 168, 144, 120]


def test_holders_lie_upon_each_other_and_devices_that_hold_the_same_share_a_picture(replay):
    figure = plotting.memory_by_holder(replay(replicas=2))
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert texts == [[f"gpu{i} and 1 alike, peak {192 - 24 * i} MiB"] for i in range(4)]
    assert legend(figure) == ["activations", "gradients", "buffers", "optimizer", "parameters"]
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in figure.axes[0].collections]
    assert tops == [16, 48, 80, 96, 192]


def test_of_many_devices_the_fullest_are_drawn_by_holder(replay):
    figure = plotting.memory_by_holder(replay(stages=16, microbatches=16))
    assert [ax.texts[0].get_text().partition(",")[0] for ax in figure.axes] == [f"gpu{i}" for i in range(8)]
    assert "the 8 of the highest peaks; 8 lower ones are left out" in figure.axes[0].get_title(loc="left")


def test_a_capacity_that_memory_comes_near_is_drawn_by_holder(replay):
    assert "capacity" in legend(plotting.memory_by_holder(replay(capacity_bytes=200 * 2**20)))
    assert "capacity" not in legend(plotting.memory_by_holder(replay(capacity_bytes=250 * 2**20)))


def test_timeline_marks_the_end(noisy):
    assert "step end (34.7 ms)" in legend(plotting.timeline(noisy))
    assert "5-95 % of trials" in legend(plotting.timeline(noisy))


def test_units_follow_the_length(replay):
    assert plotting.timeline(replay(forward_s=2**-22, send_s=2**-26)).axes[0].get_xlabel() == "time (us)"
    assert plotting.timeline(replay(forward_s=2.0)).axes[0].get_xlabel() == "time (s)"


def lengths(ax):
    rows = {round(bar.get_y(), 6): 0.0 for bar in ax.patches}
    for bar in ax.patches:
        rows[round(bar.get_y(), 6)] += bar.get_width()
    return list(rows.values())


def test_breakdown_bars_fill_the_step(pipeline, noisy):
    (ax,) = plotting.breakdown(pipeline).axes
    assert lengths(ax) == pytest.approx([1.0] * 4)
    (above,) = ax.child_axes
    assert above.get_xlabel() == "time (ms)"
    ax.figure.draw_without_rendering()
    assert above.get_xlim() == pytest.approx((0.0, pipeline.step_s * 1e3))
    parts, seconds = plotting.breakdown([pipeline, noisy, replace(noisy, step_s=2 * noisy.step_s)]).axes
    assert lengths(parts)[:2] == pytest.approx([1.0] * 2)
    assert lengths(seconds)[:2] == pytest.approx([pipeline.step_s * 1e3] * 2)
    assert seconds.get_xlabel() == "time (ms)"
    names = [text.get_text() for text in seconds.get_legend().get_texts()]
    assert legend(ax.figure) == names
    assert names == ["compute", "exposed communication", "idle in the bubble", "idle behind transfers"]


def test_devices_that_do_the_same_share_a_bar(replay):
    result = replay(replicas=2)
    (ax,) = plotting.breakdown(result).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"stage {i}: gpu{i} × 2" for i in range(4)]
    (ax,) = plotting.breakdown(replace(result, spans=Spans())).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"gpu{i}" for i in range(8)]


def test_a_distribution_without_randomness_says_so(pipeline, noisy):
    assert "nothing random" in legend(plotting.cdf(pipeline))[0]
    assert "41 trials" in legend(plotting.cdf(noisy))[0]
    (line,) = plotting.cdf(pipeline).axes[0].lines
    assert list(line.get_ydata()) == [0.0, 1.0]
    assert len(set(line.get_xdata())) == 1


def test_memory_draws_the_capacity_only_where_it_can_be_read(replay):
    near, far, over = (plotting.memory(replay(capacity_bytes=mib * 2**20)) for mib in (256, 81920, 130))
    assert "capacity" in legend(near)
    assert "capacity" not in legend(far)
    assert "0.234 % of 80 GiB (off the scale)" in far.axes[0].get_title(loc="left")
    assert "does not fit" in legend(over)


def test_memory_stacks_to_the_peak(pipeline):
    (ax,) = plotting.memory(pipeline).axes
    tops = {}
    for bar in ax.patches:
        tops[bar.get_x()] = max(tops.get(bar.get_x(), 0), bar.get_y() + bar.get_height())
    assert list(tops.values()) == [192, 168, 144, 120]


@pytest.mark.parametrize(
    ("draw", "given", "message"),
    [
        (plotting.speedup, [], "none of 0 rows has a speedup"),
        (plotting.speedup, [{"plan": "a", "speedup": 1.0}], "needs the column 'n_devices'"),
        (plotting.speedup, [{"plan": "a", "n_devices": 2, "speedup": None}], "none of 1 rows has a speedup"),
        (plotting.breakdown, [], "needs results with devices"),
        (plotting.cdf, [], "no results"),
    ],
)
def test_nothing_to_draw_is_said(draw, given, message):
    with pytest.raises(MpsimError, match=message):
        draw(given)


@pytest.mark.parametrize(
    "draw", [*OF_ONE, plotting.speedup, plotting.network, plotting.predicted_and_measured], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("given", ["result.json", 3, None, [1], {"a": 1}, b"x"])
def test_what_is_no_result_is_one_line(draw, given):
    with pytest.raises(MpsimError, match=r"expected|needs the column") as refused:
        draw(given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("draw", OF_ONE[:4])
def test_an_empty_result_is_refused(draw, pipeline):
    empty = replace(pipeline, spans=Spans(), devices=())
    with pytest.raises(MpsimError, match=r"(needs|has no)"):
        draw(empty)


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_figures_are_saved_whole_and_the_same_each_time(tmp_path, pipeline, suffix, magic):
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        plotting.save_figure(plotting.breakdown(pipeline), path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(magic)
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.jpg", r"suffix is '.jpg', expected .png, .svg, .pdf"),
        ("a", r"suffix is '', expected .png, .svg, .pdf"),
        ("nowhere/a.png", r"cannot write .*nowhere/a.png"),
    ],
)
def test_figures_are_not_half_saved(tmp_path, pipeline, name, message):
    with pytest.raises(MpsimError, match=message):
        plotting.save_figure(plotting.breakdown(pipeline), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_no_figure_is_left_with_pyplot(pipeline):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plotting.timeline(pipeline)
    assert plt.get_fignums() == before


def test_only_plotting_loads_matplotlib():
    program = "import sys, mpsim.result.frames, mpsim.result.text; print('matplotlib' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_devices_that_hold_as_much_share_a_bar(replay):
    (ax,) = plotting.memory(replay(replicas=2)).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"gpu{i} × 2" for i in range(4)]


@pytest.mark.parametrize("draw", [plotting.memory, plotting.memory_over_time])
def test_memory_of_several_results_is_on_one_scale(draw, pipeline, replay):
    figure = draw([pipeline, replay(microbatches=2, plan="few")])
    assert_nothing_is_clipped(figure)
    above, below = figure.axes
    assert above.get_ylim() == below.get_ylim()
    assert (above.get_ylabel(), "few" in below.get_title(loc="left")) == (below.get_ylabel(), True)
    if draw is plotting.memory_over_time:
        assert above.get_xlim() == below.get_xlim()
    with pytest.raises(MpsimError, match="2 results for one ax"):
        draw([pipeline, pipeline], ax=above)
    with pytest.raises(MpsimError, match="a picture of no results"):
        draw([])


def test_curves_of_ranks_that_run_the_same_are_one_where_there_are_many(replay):
    result = replay(replicas=8)
    replicas = [i // 4 for i in range(32)]

    def slower(device, replica):
        times = tuple(time * (1 - 2**-8 * (7 - replica)) for time in device.memory.timeline_s)
        return replace(device, memory=replace(device.memory, timeline_s=times))

    devices = tuple(map(slower, result.devices, replicas))
    (ax,) = plotting.memory_over_time(replace(result, devices=devices)).axes
    assert legend(ax.figure) == [f"gpu{i} and 7 alike" for i in range(4)]
    assert "the slowest is drawn" not in ax.get_title(loc="left")  # their spans are the same


def test_axes_of_a_distribution_fit_it(noisy, replay):
    (ax,) = plotting.cdf([noisy, replace(noisy, trial_step_s=tuple(2 * step for step in noisy.trial_step_s))]).axes
    least, most = min(noisy.trial_step_s) * 1e3, 2 * max(noisy.trial_step_s) * 1e3
    first, second = (entry.replace("\n", " ") for entry in legend(ax.figure))
    assert second.endswith(", +100.0 %)")
    assert not first.endswith("%)")
    low, high = ax.get_xlim()
    assert 0 < least - low < 0.1 * (most - least)
    assert 0 < high - most < 0.1 * (most - least)


def test_several_results_say_once_what_may_make_them_wrong_and_what_tells_them_apart(pipeline):
    one, other = (
        replace(pipeline, caveats=(f"a share is taken as 1/{n} of the whole one",), global_batch=8 * n) for n in (2, 4)
    )
    figure = plotting.breakdown([one, other])
    title = figure.axes[0].get_title(loc="left").splitlines()
    assert title[0] == "caution: a share is taken as 1/2, 1/4 of the whole one"
    assert sum("caution" in line for line in title) == 1
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        f"{pipeline.plan}, batch {n}" for n in (16, 32)
    ]
    assert plotting.cdf([one, other]).axes[0].get_title(loc="left").splitlines()[0] == title[0]


def test_memory_in_panels_that_share_an_axis_is_cut_off_in_none(pipeline):
    def grown(use):
        return replace(use, memory=replace(use.memory, timeline_bytes=tuple(64 * n for n in use.memory.timeline_bytes)))

    large = replace(pipeline, devices=tuple(map(grown, pipeline.devices)))
    axes = Figure().subplots(1, 2, sharey=True)
    for ax, result in zip(axes, (large, pipeline), strict=True):
        plotting.memory_over_time(result, ax=ax)
    assert axes[0].get_ylim()[1] >= max(max(line.get_ydata()) for line in axes[0].lines)
