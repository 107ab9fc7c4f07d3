import subprocess
import sys
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mpsim.errors import MpsimError
from mpsim.result import plotting
from mpsim.result.frames import summary_row
from mpsim.result.model import Result, Spans
from mpsim.sweeps import SweepResult, scaling_rows

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


def drawn_texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def assert_nothing_is_clipped(figure: Figure) -> None:
    figure.draw_without_rendering()
    page, hidden = figure.bbox, hidden_ticks(figure)
    for text in drawn_texts(figure):
        if text in hidden:
            continue
        box = text.get_window_extent()
        inside = box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1 and box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1
        assert inside, f"{text.get_text()!r} leaves the page: {box}"


def hidden_ticks(figure: Figure) -> set[Text]:
    """Matplotlib keeps labels of ticks outside the limits and does not draw them."""
    hidden = set()
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    return hidden


def assert_tick_labels_stand_apart(figure: Figure) -> None:
    figure.draw_without_rendering()
    hidden = hidden_ticks(figure)
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            labels = [tick.label1 for tick in axis.get_major_ticks()]
            labels = [label for label in labels if label.get_visible() and label.get_text() and label not in hidden]
            if any(label.get_rotation() % 90 for label in labels):
                continue  # The boxes of slanted labels overlap though their letters do not.
            boxes = [label.get_window_extent() for label in labels]
            for i, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[:i]), labels[i].get_text()


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


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


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
    assert legend(ax.figure) == names == ["compute", "exposed communication", "idle in the bubble", "other idle"]


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


def rows():
    sizes = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (4, 1, 1)]
    speedups = [1.0, 1.75, 1.75, 1.5, 3.0, 3.5]
    for (dp, pp, tp), value in zip(sizes, speedups, strict=True):
        plan = f"dp={dp} pp={pp} tp={tp} micro-batches=4 1f1b"
        step = {"step_s": 1 / value, "step_p5_s": 0.99 / value, "step_p95_s": 1.01 / value}
        yield {"plan": plan, "n_devices": dp * pp * tp, "speedup": value, "fits": dp < 4, **step}


def named(ax):
    """The plans written at their marks, by the number of devices under them."""
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    return {ticks[int(text.xy[0])]: text.get_text().replace("\n", " ") for text in ax.texts}


def marks(ax):
    """Where the marks of plans stand, in points of the page, and how large each is."""
    points = 72 / ax.figure.dpi
    for collection in ax.collections:
        offsets = collection.get_offsets()
        if len(offsets) and collection.get_zorder() == 3:
            for x, y in ax.transData.transform(offsets) * points:
                yield x, y, collection.get_sizes()[0] ** 0.5


def test_speedup_tells_families_ties_and_misfits(pipeline):
    figure = plotting.speedup(list(rows()))
    assert legend(figure) == [
        "ideal", "one device", "data", "pipeline", "tensor", "hybrid", "does not fit", "ties with the best",
        "best that fits",
    ]  # fmt: skip
    # dp=4 is faster and does not fit
    assert named(figure.axes[0]) == {"1": "1× m=4 1f1b", "2": "1.75× pp=2 m=4 1f1b", "4": "3× dp=2 pp=2 m=4 1f1b"}


def test_speedup_places_plans_at_their_number_of_devices(pipeline):
    (ax,) = plotting.speedup([*rows(), {"plan": "dp=1 pp=2 tp=1 naive", "n_devices": 2, "speedup": 0.75}]).axes
    shown = [one.get_offsets().tolist() for one in ax.collections if one.get_zorder() == 3]
    points = sorted((round(x), y) for offsets in shown for x, y in offsets)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4"]
    assert points == [(0, 1), (1, 0.75), (1, 1.5), (1, 1.75), (1, 1.75), (2, 3), (2, 3.5)]
    assert "naive pipeline" in legend(ax.figure)
    assert "best (it is unknown whether all fit)" not in legend(ax.figure)[-1]


@pytest.mark.parametrize(("counts", "plans"), [((2, 4, 8), 40), (range(8, 200, 8), 12)])
def test_no_mark_hides_another(counts, plans):
    given = [
        {"plan": f"dp={n} pp=1 tp=1 micro-batches={k}", "n_devices": n, "speedup": n ** (0.9 - 0.4 * (k // 3) / plans)}
        for n in counts
        for k in range(plans)
    ]
    figure = plotting.speedup(given)
    assert_nothing_is_clipped(figure)
    assert_tick_labels_stand_apart(figure)
    found = [*marks(figure.axes[0])]
    assert len(found) == len(given)
    for i, (x, y, size) in enumerate(found):
        assert not any(abs(x - a) < size and abs(y - b) < size for a, b, _ in found[:i])
    assert len(named(figure.axes[0])) == len(counts)


def test_plans_without_a_place_are_counted_and_the_best_keeps_its_own():
    given = [{"plan": f"dp=2 micro-batches={k}", "n_devices": 2, "speedup": 1.5} for k in range(2, 300)]
    given.append({"plan": "dp=2 pp=1", "n_devices": 2, "speedup": 1.5001})
    figure = plotting.speedup(given)
    found = [*marks(figure.axes[0])]
    assert f"are there: {len(given) - len(found)}" in figure.axes[0].get_title(loc="left")
    assert named(figure.axes[0]) == {"2": "1.5× dp=2"}


def test_speedup_promises_no_fit_where_memory_is_unknown(replay):
    assert legend(plotting.speedup([replay(capacity_bytes=0)]))[-1].startswith("best (it is unknown whether all fit)")
    assert len(plotting.speedup(replay()).axes) == 1


def test_speedup_of_a_table_with_plans_that_could_not_be_run(pipeline):
    import pandas as pd

    table = pd.DataFrame([*rows(), {"plan": "dp=3 pp=1 tp=1", "reason": "batch of 64 does not divide"}])
    title = plotting.speedup(table).axes[0].get_title(loc="left")
    assert "plans that could not be run: 1" in title


def test_speedup_takes_a_sweep_or_two():
    about = {"global_batch": 8, "workload": "w", "topology": "t"}
    given = [{**row, "rank": 1 + i, **about} for i, row in enumerate(rows())]
    found = SweepResult(rows=tuple(given), planned=len(given))
    (ax,) = plotting.speedup(found).axes
    assert named(ax)["4"] == "3× dp=2 pp=2 m=4 1f1b"
    figure = plotting.speedup([found, found], names=["a.csv", "b.csv"])
    assert [ax.get_title(loc="left").split(":")[0] for ax in figure.axes] == ["a.csv", "b.csv"]


def test_speedup_takes_results_and_their_rows_alike(pipeline, noisy):
    results = [pipeline, noisy]
    texts = [legend(plotting.speedup(given)) for given in (results, [summary_row(result) for result in results])]
    assert texts[0] == texts[1]


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


def scaled(*series: str, batches=(8, 16, 32), most=8, slower=0.9, **more):
    """Rows as of sweeps in which each doubling of the devices brings a little less than twice."""
    rows = []
    for s, name in enumerate(series):
        for batch in batches:
            for n in (n for n in (1, 2, 4, 8, 16, 32, 64) if n <= most):
                step = batch / n / slower ** (n.bit_length() - 1 + s)
                given = {
                    "workload": name or "w",
                    "topology": "t",
                    "plan": "p",
                    "rank": 1,
                    "fits": True,
                    "caveats": None,
                }
                rows.append(given | {"global_batch": batch, "n_devices": n, "step_s": step} | more)
    return scaling_rows(SweepResult(rows=tuple(rows), planned=len(rows)))


@pytest.mark.parametrize(
    "given",
    [scaled(""), scaled("", batches=(8,)), scaled(LONG, f"{LONG} other"), scaled(*"abcd"), scaled("", most=64),
     scaled("", slower=0.9999), scaled("", caveats=LONG, fits=None), scaled("", slower=1e-3)],
)  # fmt: skip
def test_scaling_clips_nothing_and_hides_no_mark(given):
    figure = plotting.scaling(given)
    assert_nothing_is_clipped(figure)
    assert_tick_labels_stand_apart(figure)
    for ax in figure.axes:
        (low, high), (left, right) = ax.get_ylim(), ax.get_xlim()
        seen = set()
        for line in ax.lines:
            assert all(low <= y <= high for y in line.get_ydata())
            if line.get_marker() == "None" or line.get_markersize() < 4:
                continue
            assert line.get_markerfacecolor() == "none"
            assert all(left < x < right for x in line.get_xdata())
            for point in zip(line.get_xdata(), line.get_ydata(), strict=True):
                mark = (point, line.get_marker(), line.get_markersize())
                assert mark not in seen
                seen.add(mark)


def test_scaling_has_a_panel_for_each_thing_there_is_to_see():
    labels = [ax.get_ylabel() for ax in plotting.scaling(scaled("a", "b")).axes]
    assert labels == ["samples per second", "speedup (×)", "throughput of a device"]
    tokens = plotting.scaling(scaled("a", "b", batches=(8, 24), most=2, tokens_per_sample=512))
    assert [ax.get_ylabel() for ax in tokens.axes] == ["tokens per second", "speedup (×)"]
    assert legend(plotting.scaling(scaled("", batches=(8, 16)))) == ["ideal", "batch 8", "batch 16"]
    assert legend(plotting.scaling(scaled("a", "b", batches=(8,)))) == ["a", "b"]


def test_scaling_draws_the_rows():
    (strong, weak) = plotting.scaling(scaled("", batches=(8, 16), most=4, slower=0.5)).axes
    drawn = {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in strong.lines}
    assert drawn["batch 8"] == [(2, 1.0), (4, 1.0)]  # the first point of all is one dot
    assert [line.get_label() for line in weak.lines if not line.get_label().startswith("_")] == [
        "ideal", "4 a device", "8 a device",
    ]  # fmt: skip


def test_unlike_rows_have_panels_of_their_own(pipeline):
    import pandas as pd

    unlike = [replace(pipeline, global_batch=batch) for batch in (128, 64)]
    titles = [ax.get_title(loc="left") for ax in plotting.speedup(unlike).axes]
    assert ["global batch 128" in titles[0], "global batch 64" in titles[1], len(titles)] == [True, True, 2]
    assert len(plotting.speedup([pipeline, replace(pipeline, workload="other")]).axes) == 2
    assert len(plotting.speedup([pd.DataFrame(rows()), pd.DataFrame(rows())]).axes) == 2
    with pytest.raises(MpsimError, match=r"speedups of 7 batches, workloads or tables .* 6 at most"):
        plotting.speedup([replace(pipeline, global_batch=batch) for batch in range(1, 8)])
    with pytest.raises(MpsimError, match=r"speedups of 2 batches, .*, one in an ax"):
        plotting.speedup(unlike, ax=plotting.speedup(pipeline).axes[0])


def test_scaling_needs_two_numbers_of_devices():
    with pytest.raises(MpsimError, match="no two numbers of devices"):
        plotting.scaling(scaled("", most=1))
    with pytest.raises(MpsimError, match="needs the column 'series'"):
        plotting.scaling(list(rows()))


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
