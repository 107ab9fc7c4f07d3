"""What the page says and draws, by hand-worked steps; and that whatever stands in a file is text and nothing else."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from reported import EVIL, given, hostile_page, material, topology, workload

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.report.cluster import cluster
from mpsim.report.gather import Given, gather, rows_of_results
from mpsim.report.looks import ticks
from mpsim.report.memory import memory
from mpsim.report.page import page, save_report
from mpsim.report.scaling import scaling
from mpsim.report.tables import devices_table, plans_table
from mpsim.report.timeline import timeline
from mpsim.result.model import DeviceUse, MemoryUse, Result, Spans, Timeline
from mpsim.result.text import short_plan
from mpsim.simulation import simulate
from mpsim.sweeps.model import COLUMNS, FLAGS, TEXTS, SweepResult
from mpsim.topology.spec import parse_topology


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.texts.append(data)


def test_what_comes_from_files_is_text_and_nothing_else():
    text = hostile_page()
    found = Elements(text)
    assert "img" not in {tag for tag, _ in found.found}
    assert not [attributes for _, attributes in found.found if any(name.startswith("on") for name in attributes)]
    assert [tag for tag, _ in found.found].count("script") == 2  # the page's own, and its numbers
    assert "\u202e" not in text
    assert sum("evil.invalid" in one for one in found.texts) > 20  # shown, as it is
    data = next(one for one in found.texts if one.startswith('{"boxes"'))
    assert json.loads(data)["names"][0].startswith("\"'><img src=http://evil.invalid/x")


def test_a_page_asks_nothing_of_any_network():
    text = page(material())
    leading = {"src", "href", "action"}
    links = [own[name] for _, own in Elements(text).found for name in leading & own.keys()]
    assert {one for one in links if not one.startswith("#")} == {"data:,"}
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_same_material_makes_the_same_page(tmp_path):
    save_report(tmp_path / "a.html", material())
    assert (tmp_path / "a.html").read_text() == page(gather(given()))


def test_caveats_come_before_everything_else():
    text = page(replace(material(), doubts=("the table is doubtful",)))
    assert text.index("the table is doubtful") < text.index("best plan") < text.index("<main>")


def test_pictures_say_in_words_what_they_show():
    found = Elements(page(material())).found
    pictures = [attributes for tag, attributes in found if tag == "svg"]
    assert sum("aria-label" in one for one in pictures) == 4  # cluster, scaling, timeline, memory
    assert all(one.get("role") == "img" or one.get("aria-hidden") == "true" for one in pictures)


def test_a_table_alone_makes_a_page_that_says_what_else_it_needs():
    text = page(gather(Given(sweep=given().sweep, table="best.csv")))
    assert "mpsim report best.csv WORKLOAD TOPOLOGY" in text
    assert "timeline-data" not in text.split("<script>")[0]


def test_plans_that_do_not_fit_are_shown_where_none_does():
    rows = tuple(row | {"fits": False, "rank": None} for row in given().sweep.rows)
    text = page(gather(replace(given(), sweep=replace(given().sweep, rows=rows))))
    assert "none: no plan fits" in text
    assert 'id="too-large"' in text


def pipeline(count=1):
    """Two stages of 1 s and 1 s backward, two micro-batches, on devices that each stand for several."""
    spans = Spans(
        name=("0F0", "0F1", "1F0", "0F0>1"), kind=("forward", "forward", "forward", "send"), axis=("", "", "", "pp"),
        devices=((0,), (0,), (1,), (0, 1)), stage=(0, 0, 1, 0), microbatch=(0, 1, 0, 0), bytes=(0, 0, 0, 8),
        start_s=(0.0, 1.0, 2.0, 1.0), end_s=(1.0, 2.0, 4.0, 2.0),
    )  # fmt: skip
    use = DeviceUse(name="d0", compute_s=2.0, exposed_communication_s=0.0, idle_s=2.0, count=count)
    return Result(
        workload="w", topology="t", plan="pp=2", step_s=4.0, trial_step_s=(4.0,), free_step_s=4.0,
        devices=(use, replace(use, name="d1")), spans=spans,
    )  # fmt: skip


def test_each_rank_that_differs_has_a_row_and_says_for_how_many_it_stands():
    found = timeline(pipeline(count=8))
    assert found.data["rows"] == ["d0 × 8 · stage 0", "d1 × 8 · stage 1"]
    assert [lane[3] for lane in found.data["lanes"]] == ["", "pp transfer", "", "pp transfer"]
    boxes = found.data["boxes"]
    quarter = found.data["ticks"] // 4
    assert [boxes[0][i : i + 2] for i in (0, 6)] == [[0, quarter], [quarter, 2 * quarter]]
    assert boxes[2][:2] == [2 * quarter, 4 * quarter]


def test_gaps_between_computations_say_what_is_waited_for():
    found = timeline(pipeline(count=8))
    quarter = found.data["ticks"] // 4
    first, second = found.data["gaps"]
    assert first[:2] == found.data["lanes"][0][1:3]  # behind the computations of its row
    causes = [[found.data["names"][one[2][i + 3]] for i in range(0, len(one[2]), 6)] for one in (first, second)]
    assert causes == [["idle"], ["idle", "wait"]]
    assert [second[2][i : i + 2] for i in (0, 6)] == [[0, quarter], [quarter, 2 * quarter]]
    assert first[2][:2] == [2 * quarter, 4 * quarter]
    assert [text for _, text in found.legend][-2:] == ["idle", "waits for a transfer"]
    assert {"g-idle", "g-wait"} <= {*found.data["looks"]}


def test_ranks_that_do_the_same_at_the_same_moments_share_a_row():
    one = pipeline()
    spans = replace(one.spans, devices=((0,), (1,), (1,), (0, 1)))
    assert len(timeline(replace(one, spans=spans)).data["rows"]) == 2
    twice = Spans(**{
        name: (*values, *values) if name != "devices" else ((0,), (0,), (0,), (0, 1), (1,), (1,), (1,), ())
        for name, values in ((name, getattr(one.spans, name)) for name in one.spans.__slots__)
    })  # fmt: skip
    assert timeline(replace(one, spans=twice)).data["rows"] == ["d0 × 2 · stages 0, 1"]


def test_unfolded_ranks_are_folded_as_a_folded_replay_folds_them():
    work = workload()
    whole = simulate(work, topology(), Plan(dp=2, pp=2, microbatches=4), fold=False)
    folded = simulate(work, topology(), Plan(dp=2, pp=2, microbatches=4), fold=True)
    assert timeline(whole).data["rows"] == timeline(folded).data["rows"]
    for each, other in zip(timeline(whole).data["boxes"], timeline(folded).data["boxes"], strict=True):
        assert (each[0::6], each[1::6], each[2::6]) == (other[0::6], other[1::6], other[2::6])


def test_devices_that_do_the_same_are_one_row():
    whole = simulate(workload(), topology(), Plan(dp=2, pp=2, microbatches=4), fold=False)
    assert [row[0].text for row in devices_table(whole).rows] == ["n0.d0 × 2", "n0.d1 × 2"]


def test_of_very_many_spans_near_ones_are_drawn_as_one(monkeypatch):
    count = 500
    spans = Spans(
        name=("0F0",) * count, kind=("forward",) * count, axis=("",) * count, devices=((0,),) * count,
        stage=(0,) * count, microbatch=(0,) * count, bytes=(0,) * count,
        start_s=tuple(float(i) for i in range(count)), end_s=tuple(i + 0.5 for i in range(count)),
    )  # fmt: skip
    monkeypatch.setattr("mpsim.report.timeline._MOST_SPANS", 100)
    found = timeline(replace(pipeline(), spans=spans))
    assert "are drawn as one" in found.notes[-1]
    assert sum(len(boxes) for boxes in found.data["boxes"]) // 6 <= 100
    assert sum(boxes[5::6][i] for boxes in found.data["boxes"] for i in range(len(boxes) // 6)) == count


def device(peak, capacity):
    held = (
        Timeline(holder="parameters", time_s=(0.0,), bytes=(peak // 2,)),
        Timeline(holder="activations", time_s=(0.0, 1.0, 2.0), bytes=(0, peak // 2, 0)),
    )
    return DeviceUse(
        name="d0", compute_s=4.0, exposed_communication_s=0.0, idle_s=0.0, capacity_bytes=capacity,
        memory=MemoryUse(
            parameters_bytes=peak // 2, activations_bytes=peak // 2, timeline_s=(0.0, 1.0, 2.0),
            timeline_bytes=(peak // 2, peak, peak // 2), by_holder=held,
        ),
    )  # fmt: skip


def test_memory_is_drawn_to_scale_below_the_capacity():
    result = replace(pipeline(), devices=(device(2**30, 2**31),), spans=Spans())
    text = memory(result).picture
    line = float(re.search(r'y1="([\d.]+)" y2="\1" class="capacity"', text)[1])
    paths = re.findall(r'<path d="M([^"]+)z" class="h-activations"', text)
    heights = sorted({float(point.split()[1]) for point in paths[0].split("L")})
    bottom = 320 - 28
    assert bottom - heights[0] == pytest.approx((bottom - line) / 2, abs=0.02)  # a GiB of two
    assert bottom - heights[1] == pytest.approx((bottom - line) / 4, abs=0.02)


def test_a_capacity_far_above_is_said_and_not_drawn():
    found = memory(replace(pipeline(), devices=(device(2**20, 2**40),), spans=Spans()))
    assert "above the top of the picture" in found.text
    assert "capacity" not in found.picture.replace(found.text, "")


def test_the_fullest_moment_of_many_is_drawn():
    moments = tuple(float(i) for i in range(5000))
    counts = tuple(2**20 if i == 3333 else 1024 for i in range(5000))
    held = (Timeline(holder="activations", time_s=moments, bytes=counts),)
    use = replace(
        device(2**20, 0),
        memory=MemoryUse(activations_bytes=2**20, timeline_s=moments, timeline_bytes=counts, by_holder=held),
    )
    found = memory(replace(pipeline(), devices=(use,), spans=Spans(), step_s=5000.0))
    heights = [float(point.split()[1]) for point in re.search(r'd="M([^"]+)z"', found.picture)[1].split("L")]
    assert min(heights) == pytest.approx(320 - 28 - (320 - 28 - 16) / 1.1, abs=0.02)


def test_nodes_that_are_alike_are_drawn_once_and_counted():
    many = parse_topology("nodes:64,per_node=8,inside=nvlink4,between=ib_ndr")
    assert "× 64 nodes" in cluster(many).picture
    split = cluster(many, Plan(pp=64, dp=1, tp=8, microbatches=64)).picture
    assert "57 more" in split  # each node has a stage of its own: six and the last are drawn
    assert "× 64" not in split


def test_devices_have_the_colour_of_their_stage():
    found = cluster(topology(), Plan(pp=2, microbatches=2, devices=(3, 0)))
    assert re.findall(r'class="s-(\w+)"', found.picture) == ["1", "none", "none", "0"]


def test_a_ring_is_drawn_link_by_link():
    assert cluster(parse_topology("ring:5,link=nvlink4")).picture.count('class="wire"') == 5


@pytest.mark.parametrize(
    "text",
    [
        "chain:1,link=nvlink4", "torus:4x4x4,link=nvlink4", "switch:300,link=eth_10g", "dgx_h100:2",
        "fat_tree:4,link=ib_ndr", "fully_connected:6,link=nvlink4",
    ],
)  # fmt: skip
def test_every_kind_of_cluster_is_drawn(text):
    found = cluster(parse_topology(text))
    assert found.facts
    assert "nan" not in found.picture


def test_scaling_is_over_the_fewest_devices_where_there_is_no_baseline():
    rows = [row | {"speedup": None} for row in material().by_devices]
    assert "1x on 1 to" in scaling(rows)
    assert scaling(rows[:1]) is None
    assert scaling([row | {"step_s": 0.0} for row in rows]) is None


def test_whole_numbers_of_devices_are_whole_in_a_table_that_was_read():
    rows = [row | {"n_devices": float(row["n_devices"])} for row in material().sweep.ranked]
    table = plans_table(material(), rows, "plans", "all")
    assert {row[1].text for row in table.rows} <= {"1", "2", "3", "4"}


def test_plans_are_told_without_the_parts_that_are_one():
    assert short_plan("dp=1 pp=4 tp=1 micro-batches=8 gpipe") == "pp=4 micro-batches=8 gpipe"
    assert short_plan("dp=8 pp=2 tp=1 micro-batches=2 place=0,8,1,9,2,10,3,11,4,12,5 zero=1") == (
        "dp=8 pp=2 micro-batches=2 place=… zero=1"
    )


def test_ticks_are_round():
    assert ticks(1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert len(ticks(3e-9)) < 9


def test_a_step_of_no_time_is_a_page_too():
    nothing = Result(workload="w", topology="t", plan="p", step_s=0.0, trial_step_s=(0.0,), free_step_s=0.0)
    spans = replace(pipeline().spans, start_s=(0.0,) * 4, end_s=(0.0,) * 4)
    use = DeviceUse(name="d0", compute_s=0.0, exposed_communication_s=0.0, idle_s=0.0)
    assert "<main>" in page(gather(Given(results=[replace(nothing, spans=spans, devices=(use, use))])))


def test_study_has_a_best_plan_for_each_number_of_devices():
    assert [row["n_devices"] for row in material().by_devices] == sorted(
        {row["n_devices"] for row in material().sweep.ranked}
    )


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_that_was_edited_is_a_page_or_one_line(name):
    found = rows_of_results([simulate(workload(), topology(), Plan(pp=4, microbatches=8))]).rows[0]
    extremes = (EVIL, "", "-") if name in TEXTS else (True, False) if name in FLAGS else (0, 1, 1e308, 5e-324)
    for value in (None, *extremes):
        rows = (found | {name: value}, found | {name: value, "n_devices": 2, "rank": 2}, found)
        with suppress(MpsimError):
            text = page(gather(Given(sweep=SweepResult(rows=rows, planned=3), table="t.csv")))
            assert "img" not in {tag for tag, _ in Elements(text).found}
