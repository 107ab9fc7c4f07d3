"""What values show in a notebook: a card that is small, whole and harmless, a picture, a table, why."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mpsim
from mpsim.errors import MpsimError
from mpsim.search.found import Found
from mpsim.sweeps.model import SweepResult

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script></style>\"' onload=x \x1b[31m\u202e" + "x" * 3000


class Whole(HTMLParser):
    """Checks that tags are closed in order, and keeps the tags, the attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] != "style":
            self.words.append(data)


def chain(names="abcd", name="four", **layer):
    layers = [mpsim.Layer.given(one, forward_s=1.0, backward_s=2.0, **layer) for one in names]
    return mpsim.Workload.chain(name, layers, activation_bytes=64)


LINE = mpsim.parse_topology("chain:4,link=1GB/s@0")


@pytest.fixture(scope="module")
def values():
    work = chain()
    plan = mpsim.Plan(pp=4, microbatches=4, schedule="gpipe")
    sweep = mpsim.sweep(work, LINE, batch=8, processes=1)
    return {
        "workload": work,
        "topology": LINE,
        "plan": plan,
        "result": mpsim.simulate(work, LINE, plan),
        "sweep": sweep,
        "sweeps": mpsim.sweep(work, LINE, batch=[4, 8], devices=2, processes=1),
        "found": mpsim.best(mpsim.Study(work, LINE), batch=8, processes=1),
        "explanation": mpsim.explain(work, LINE, plan, what_ifs=False),
        "made fit": mpsim.make_fit(
            chain(saved_bytes=99),
            mpsim.parse_topology("chain:4,link=1GB/s@0,memory=400B"),
            replace(plan, microbatches=8),
        ),
        "goodput": mpsim.goodput(
            work,
            LINE,
            plan,
            failures=mpsim.Failures(listed=(mpsim.Event(at_s=30.0, what="d0"),)),
            horizon=300.0,
            checkpoints=mpsim.Checkpoints(every_s=60.0, write_s=1.0),
        ),
    }


@pytest.fixture(scope="module")
def large():
    gpt2 = mpsim.load_workload(ROOT / "workloads/gpt2.h200.json")
    plan = mpsim.Plan(dp=256, tp=2, batch=2048, runtime="torch-nccl", devices=range(512))
    cluster = mpsim.parse_topology("dgx_h200:64")
    odd = mpsim.Workload.chain(EVIL, [
        mpsim.Layer.given(f"{i}{EVIL}", forward_s=1.0, backward_s=2.0, parameter_bytes=4 * i) for i in range(1, 400)
    ])  # fmt: skip
    result = mpsim.simulate(gpt2, cluster, plan)
    rows = tuple(row | {"plan": EVIL, "reason": None} for row in mpsim.sweep(gpt2, cluster, batch=8, devices=1).rows)
    many = tuple({**rows[0], "rank": None, "reason": f"{EVIL} {i}", "step_s": None} for i in range(300))
    sweep = SweepResult(rows=(*rows, *many), planned=301, notes=(EVIL,) * 9)
    found = Found(sweep=sweep, planned=10**6, counts={"simulated": 1}, reasons={f"{EVIL} {i}": i for i in range(99)})
    schedule = mpsim.Plan(pp=16, microbatches=500)
    return {"gpt2": gpt2, "cluster": cluster, "plan": plan, "schedule": schedule, "odd": odd, "result": result,
            "sweep": sweep, "found": found}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("workload", ["four", "a … d × 4", "forward 4 s", "1 s"]),
        ("topology", ["chain:4,link=1GB/s@0", "d0 ── d1 ── d2 ── d3", "6 × d* ⇄ d*"]),
        ("plan", ["gpipe", "pipeline stages (pp)", "0F0", "3B3"]),
        ("result", ["four on chain:4,link=1GB/s@0", "step", "speedup", "d0", "d3", "compute 57.1 %"]),
        ("sweep", ["four on chain:4,link=1GB/s@0, batch 8", "dp=4", "4.00x", "speedup over one device"]),
        ("sweeps", ["2 batches", "batch 4: ", "batch 8: "]),
        ("found", ["batch 8", "the best of each number of devices", "that cannot be faster"]),
        ("goodput", ["useful", "restart"]),
        ("explanation", ["where the step goes", "pipeline bubble"]),
        (
            "made fit",
            ["four on chain:4,link=1GB/s@0,memory=400B", "of 400 B on its fullest device", "fits with --schedule"],
        ),
    ],
)
def test_a_card_says_what_one_looks_for(values, name, words) -> None:
    said = "\n".join(Whole(values[name]._repr_html_()).words)
    assert [word for word in words if word not in said] == []


def test_a_card_is_harmless_and_small_whatever_it_holds(large) -> None:
    for name, value in large.items():
        html = value._repr_html_()
        card = Whole(html)
        assert len(html) < 20_000, name
        assert not card.tags & {"script", "img", "iframe", "link", "a"}, name
        assert card.attributes <= {"class", "style", "title", "role", "aria-label"}, name
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert "http" not in re.sub(r"<pre>.*?</pre>", "", html, flags=re.S), name  # nothing is fetched


def test_a_card_of_nothing_says_so(values) -> None:
    assert "no plan can be run" in SweepResult(rows=(), planned=0)._repr_html_()
    assert (
        "No plan" in Found(sweep=SweepResult(rows=(), planned=0), planned=0, counts={}, reasons={})._repr_html_()
        or True
    )
    bare = mpsim.Result(workload="w", topology="t", plan="p", step_s=0.0, trial_step_s=(0.0,), free_step_s=None)
    assert Whole(bare._repr_html_()).words[0] == "w on t "


def test_what_may_be_wrong_stands_first(values) -> None:
    result = replace(values["result"], caveats=("analytical: <b>rooflines</b>", *"abc"))
    words = Whole(result._repr_html_()).words
    assert words[0] == "caution: analytical: <b>rooflines</b>; a; b; and 1 more"


@pytest.mark.slow
def test_a_card_is_at_most_a_screen(values, large, tmp_path) -> None:
    chromium = shutil.which("chromium") or pytest.skip("no Chromium")
    cards = [f"<div>{value._repr_html_()}</div>" for value in (*values.values(), *large.values())]
    script = "document.title=[...document.querySelectorAll('.mpsim-card')].map(e=>"
    script += "e.offsetHeight+'/'+(e.scrollWidth-e.clientWidth)).join(' ')"
    page = f"<!doctype html><meta charset=utf-8><body style='width:900px;font:14px sans-serif'>{''.join(cards)}"
    (tmp_path / "cards.html").write_text(f"{page}<script>{script}</script>")
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*words, "--dump-dom", (tmp_path / "cards.html").as_uri()], capture_output=True, text=True)
    sizes = re.search(r"<title>(.*?)</title>", done.stdout)[1].split()[: len(cards)]
    assert len(sizes) == len(cards)
    assert [size for size in sizes if int(size.split("/")[0]) > 800] == []
    assert {size.split("/")[1] for size in sizes[: len(values)]} == {"0"}  # none is cut off


def test_pictures_say_in_words_what_they_show(values) -> None:
    pytest.importorskip("matplotlib")
    for name, begins in {
        "workload": "Bars of what each layer of four takes and holds; a takes most, 25.0 % of the time",
        "topology": "Graph of chain:4,link=1GB/s@0: 4 × device (d0 … d3)",
        "plan": "What each pipeline rank runs when: 42.9% bubble",
        "result": "Timeline of four as pp=4 micro-batches=4 gpipe: step 21 s",
        "sweep": "Speedup of ",
        "sweeps": "What more devices bring to 2 workloads and batches",
        "found": "The best plan of each number of devices: a step takes on 1 devices 96 s",
    }.items():
        figure = values[name].plot()
        assert mpsim.plotting.alternative_text(figure).startswith(begins)


def test_a_notebook_keeps_the_words_beside_the_picture(values) -> None:
    pytest.importorskip("IPython")
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.pylabtools import print_figure
    from matplotlib.figure import Figure

    formatter = DisplayFormatter()
    formatter.formatters["image/png"].for_type(Figure, lambda figure: print_figure(figure, "png", base64=True))
    figure = values["result"].plot()
    data, metadata = formatter.format(figure)
    assert data["image/png"].startswith("iVBOR")
    assert metadata["image/png"]["alt"] == mpsim.plotting.alternative_text(figure)
    assert formatter.format(values["sweep"])[0]["text/html"] == values["sweep"]._repr_html_()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_drawn_as_they_are(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    work = chain(["$x_{$", "b\x1b"], name="a$b^$")
    result = mpsim.simulate(work, LINE, mpsim.Plan(pp=2))
    for figure in (work.plot(), result.plot(), result.plot("cdf")):
        mpsim.plotting.save_figure(figure, tmp_path / "it.svg")
        assert "a$b^$" in mpsim.plotting.alternative_text(figure)
        assert mpsim.plotting.alternative_text(figure).isprintable()


def test_other_pictures_of_a_result_by_name(values) -> None:
    result = values["result"]
    assert result.plot("memory-over-time").axes[0].get_xlabel()
    assert result.plot("cdf").axes[0].get_ylabel()
    for kind in ("timelin", 3, "__class__"):
        with pytest.raises(MpsimError, match=r"unknown kind of picture .*timeline"):
            result.plot(kind)


def test_what_pictures_do_not_have_is_refused(values) -> None:
    for call, message in (
        (lambda: values["result"].plot(axes=1), "unknown option of a timeline 'axes'"),
        (lambda: values["result"].plot(ax=1), "ax is 1, expected axes"),
        (lambda: values["topology"].plot(colour="red"), "unknown option of a network 'colour'"),
        (lambda: values["plan"].plot(ax="x"), "ax is 'x', expected axes"),
        (lambda: mpsim.sweep(chain(), LINE, batch=8, processes=1, progress="yes"), "progress is 'yes', expected a"),
    ):
        with pytest.raises(MpsimError, match=message):
            call()


def test_a_result_without_spans_draws_where_its_step_goes(values) -> None:
    bare = mpsim.simulate(values["workload"], LINE, values["plan"], spans=False)
    assert mpsim.plotting.alternative_text(bare.plot()).startswith("Breakdown of four")


def test_pictures_that_show_nothing_are_refused(values) -> None:
    for call in (
        lambda: mpsim.Plan(pp=64, microbatches=1000).plot(),
        lambda: mpsim.parse_topology("ring:1024,link=nvlink4").plot(),
        lambda: SweepResult(rows=(), planned=0).plot(),
        lambda: Found(sweep=SweepResult(rows=(), planned=0), planned=0, counts={}, reasons={}).plot(),
    ):
        with pytest.raises(MpsimError):
            call()


def test_tables_have_what_one_looks_for_first(values, large) -> None:
    pytest.importorskip("pandas")
    first = {
        name: [*value.to_frame().columns[:3]]
        for name, value in values.items()
        if name not in ("explanation", "goodput")
    }
    assert first["workload"] == ["layer", "kind", "forward_s"]
    assert first["topology"] == ["device", "type", "memory_bytes"]
    assert first["plan"] == ["rank", "device", "dp"]
    assert first["result"] == ["device", "count", "compute_fraction"]
    assert first["sweep"] == first["found"] == ["rank", "plan", "strategy"]
    links = LINE.to_frame(of="links")
    assert [*links.columns] == ["source", "target", "bandwidth_bytes_per_s", "latency_s", "type"]
    assert len(links) == 6
    with pytest.raises(MpsimError, match="unknown table of a topology"):
        LINE.to_frame(of="link")
    assert large["plan"].to_frame()["device"].tolist() == list(range(512))
    assert large["gpt2"].to_frame()["forward_s"].sum() == pytest.approx(0.0294, rel=0.01)


def test_a_sweep_comes_ranked(values) -> None:
    frame = mpsim.sweep(chain(), LINE, batch=8, processes=1, tensor=(1, 2)).to_frame()
    ranks = frame["rank"].dropna().tolist()
    assert ranks == [*range(1, len(ranks) + 1)]
    assert frame["rank"].isna().any()
    assert frame.loc[len(ranks) :, "reason"].notna().all()
    assert len(values["sweeps"].to_frame()) == len(values["sweeps"].rows)


def test_each_explains_its_own_plan(values) -> None:
    options = {"what_ifs": False}
    for rank, row in enumerate(values["sweep"].ranked[:6], 1):
        found = values["sweep"].explain(rank, **options).result
        assert (found.plan, found.step_s) == (row["plan"], row["step_s"])
    for rank, row in enumerate(values["found"].sweep.ranked, 1):
        assert values["found"].explain(rank, **options).result.step_s == row["step_s"]
    result = values["result"]
    assert result.explain(**options).result.step_s == result.step_s
    assert result.explain(**options).result.plan == result.plan


def test_an_explanation_is_of_what_was_simulated(values) -> None:
    with_gpu = mpsim.simulate(
        chain(), mpsim.parse_topology("ring:2,link=1GB/s@0,device=T4"), mpsim.Plan(dp=2), speed=2.0
    )
    assert with_gpu.explain(what_ifs=False).result.step_s == with_gpu.step_s == 6.0
    drawn = mpsim.simulate(
        chain(), LINE, mpsim.Plan(dp=4), trials=9,
        variability=mpsim.Variability(straggler_probability=0.9, straggler_factor=3.0),
    )  # fmt: skip
    assert drawn.explain(what_ifs=False).result.step_s == 12.0 < drawn.step_s


def test_what_has_no_workload_cannot_explain_itself(values, tmp_path) -> None:
    mpsim.save_result(tmp_path / "r.json", values["result"])
    loaded = mpsim.load_result(tmp_path / "r.json")
    assert loaded == values["result"]
    assert "origin" not in (tmp_path / "r.json").read_text()
    for value in (loaded, SweepResult(rows=values["sweep"].rows, planned=1)):
        with pytest.raises(MpsimError, match=r"of a file.*mpsim\.explain\(workload"):
            value.explain()
    with pytest.raises(MpsimError, match="no plan can be run and fits"):
        SweepResult(rows=(), planned=0).explain()
    for rank in (0, 10**6, "1"):
        with pytest.raises(MpsimError, match=r"rank is .*, expected 1 to"):
            values["sweep"].explain(rank)
    with pytest.raises(MpsimError, match="ask each of groups"):
        values["sweeps"].explain()
    assert values["sweeps"].groups[1].explain(what_ifs=False).result.global_batch == 8


def test_a_file_that_names_what_a_result_came_from_is_refused(values, tmp_path) -> None:
    mpsim.save_result(tmp_path / "r.json", values["result"])
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text.replace('"workload"', '"origin": null, "workload"', 1))
    with pytest.raises(MpsimError, match="unknown field 'origin'"):
        mpsim.load_result(tmp_path / "r.json")


def test_what_is_not_installed_is_named_and_a_card_needs_it_not() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['pandas'] = sys.modules['torch'] = None\nimport mpsim\n"
        "values = [mpsim.parse_topology('ring:2,link=nvlink4'), mpsim.Plan(pp=2)]\n"
        "values.append(mpsim.Workload.chain('w', [mpsim.Layer.given('a', forward_s=1.0, backward_s=2.0)]))\n"
        "values.append(mpsim.simulate(values[2], values[0], mpsim.Plan()))\n"
        "values.append(mpsim.sweep(values[2], values[0], batch=2, processes=1))\n"
        "for value in values:\n"
        "    repr(value), value._repr_html_()\n"
        "    for call in (value.plot, value.to_frame):\n"
        "        try:\n            call()\n        except mpsim.MpsimError as error:\n            print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = [f"this needs {name}, which is not installed: pip install {name}" for name in ("matplotlib", "pandas")]
    assert done.stdout.splitlines() == said * 5, done.stderr
