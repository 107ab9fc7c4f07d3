"""Speedups and scaling: no mark hides another, the best are named, unlike rows apart."""

from dataclasses import replace

import pytest
from drawn import assert_nothing_is_clipped, assert_tick_labels_stand_apart, legend

from mpsim.errors import MpsimError
from mpsim.result import plotting
from mpsim.result.frames import summary_row
from mpsim.sweeps import SweepResult, scaling_rows

LONG = "meta-llama/Llama-3.1-70B with a long suffix --set n_layer=4 --set hidden=8192 --dtype bfloat16 --sequence 8192"


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
    assert named(figure.axes[0]) == {
        "1": "1× micro-batches=4 1f1b",
        "2": "1.75× pp=2 micro-batches=4 1f1b",
        "4": "3× dp=2 pp=2 micro-batches=4 1f1b",
    }


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
    assert named(ax)["4"] == "3× dp=2 pp=2 micro-batches=4 1f1b"
    figure = plotting.speedup([found, found], names=["a.csv", "b.csv"])
    assert [ax.get_title(loc="left").split(":")[0] for ax in figure.axes] == ["a.csv", "b.csv"]


def test_speedup_takes_results_and_their_rows_alike(pipeline, noisy):
    results = [pipeline, noisy]
    texts = [legend(plotting.speedup(given)) for given in (results, [summary_row(result) for result in results])]
    assert texts[0] == texts[1]


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
