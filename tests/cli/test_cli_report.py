"""``mpsim report`` and ``mpsim best --report``: what is named is told apart, and what is wrong is one line."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from cli_inputs import HAND, RING
from click.testing import CliRunner

from mpsim.cli import cli

OF = ("--batch", "8", "--schedules", "gpipe", "--processes", "1", "--zero", "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a study, its page, its best plan, and a table that was cut."""
    folder = tmp_path_factory.mktemp("study")
    with chdir(folder):
        written = ("-o", "best.csv", "--report", "found.html", "--plan", "plan.json")
        done = CliRunner().invoke(cli, ["best", HAND, RING, *OF, *written])
        assert done.exit_code == 0, done.output
        Path("cut.csv").write_text(Path("best.csv").read_text()[:-9])
    return folder


@pytest.fixture
def study(mpsim, made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return mpsim


def test_best_and_report_write_the_same_step(study):
    assert study("report", "best.csv", HAND, "-o", "report.html").exit_code == 0
    found, report = (Path(name).read_text() for name in ("found.html", "report.html"))

    def data(text):
        return json.loads(text.partition('id="timeline-data">')[2].partition("</script>")[0])

    assert data(found) == data(report)
    assert "cannot be faster" in found
    for name in ("goes", "changes", "memory"):
        section = f'<section id="{name}">'
        assert (
            found.partition(section)[2].partition("</section>")[0]
            == (report.partition(section)[2].partition("</section>")[0])
        )


def test_things_come_in_any_order(study):
    study("report", "best.csv", HAND, RING, "-o", "a.html")
    study("report", RING, HAND, "best.csv", "-o", "b.html")
    a, b = (Path(name).read_text().partition('<section id="provenance">')[0] for name in ("a.html", "b.html"))
    assert a == b


def test_a_table_alone_is_a_page_with_its_cluster(study):
    done = study("report", "best.csv", "-o", "report.html")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == (
        "the page has no timeline, memory and what-ifs: the workload of these rows is not known; name its file too"
    )
    text = Path("report.html").read_text()
    assert "The cluster ring:4,link=eth_10g" in text
    assert "mpsim report best.csv WORKLOAD TOPOLOGY -o report.html" in text


def test_what_is_no_page_is_refused_before_anything_is_computed(study):
    done = study("report", "best.csv", "-o", "page.pdf")
    assert done.stderr == "mpsim: error: -o 'page.pdf': its suffix is '.pdf', expected .html or .htm\n"
    done = study("best", "gpt2", "dgx_h100", "--report", "page.html")  # a model is not looked at for nothing
    assert done.stderr.startswith("mpsim: error: give either --batch, samples in a step, or --tokens")


def test_a_table_finds_its_own_files_beside_it(study):
    """By what they hold, not by what they are called: of two traces of one name that the rows are of is taken."""
    Path("workloads").mkdir()
    other = Path(HAND).read_text().replace('"forward_s": [', '"forward_s": [0.5, ', 1)
    assert other != Path(HAND).read_text()
    Path("aaa.json").write_text(other)
    Path("bbb.json").write_text("{")
    shutil.copy(HAND, "workloads/mine.json")
    done = study("report", "best.csv", "-o", "report.html")
    assert done.stderr.splitlines()[0] == "took workloads/mine.json: the workload that these rows are of"
    assert 'id="timeline-data"' in Path("report.html").read_text()
    study("topology", RING, "-o", "net.json")
    Path("net.json").write_text(Path("net.json").read_text().replace(json.dumps(RING), '"mine"', 1))
    study("sweep", HAND, "net.json", "--batch", "8", "--processes", "1", "-o", "swept.csv")
    done = study("report", "swept.csv", "-o", "swept.html")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()[:2]] == [
        "took net.json", "took workloads/mine.json",
    ]  # fmt: skip
    assert 'id="timeline-data"' in Path("swept.html").read_text()


def test_a_result_is_reported_and_a_real_one_beside_it(study):
    study("simulate", HAND, RING, "--pp", "2", "--microbatches", "4", "-o", "result.json")
    ran = json.loads(Path("result.json").read_text()) | {"made_by": "emulate"}
    Path("real.json").write_text(json.dumps(ran))
    done = study("report", "result.json", "real.json", "-o", "report.html")
    assert done.exit_code == 0, done.output
    text = Path("report.html").read_text()
    assert "predicted over measured" in text
    assert "+0.0 %" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "THING is missing"),
        (("none.csv",), "no file 'none.csv'"),
        ((HAND, RING), "is no study"),
        (("best.csv", "best.csv"), "both a table"),
        (("best.csv", HAND, "ring:3,link=eth_10g"), "is of topology 'ring:4"),
        (("best.csv", HAND, "--batch", "9"), "--batch is 9, best.csv has rows of 8"),
        (("best.csv", "--price", "2 USD/h"), "--price needs the workload"),
        (("best.csv", "--seq", "8"), "--seq and --precision are of a model"),
        (("best.csv", HAND, "--seq", "8"), "--seq is of a model"),
        (("best.csv", "--top", "0"), "--top is 0"),
        (("plan.json",), "is a plan"),
        (("best.csv", HAND, "--speed", "-1"), "speed"),
        (("cut.csv",), "it was cut"),
    ],
)
def test_what_cannot_be_reported_is_one_line(study, words, message):
    done = study("report", *words, "-o", "report.html")
    assert done.exit_code != 0
    assert message in done.output
    assert done.output.count("\n") == 1
    assert not Path("report.html").exists()


@pytest.mark.parametrize("name", ["report.pdf", "report", "none/report.html", "best.csv"])
def test_a_page_is_no_other_file(study, name):
    before = Path("best.csv").read_text()
    assert study("report", "best.csv", "-o", name).exit_code != 0
    also = ("-o", "best.csv") if name == "best.csv" else ()
    assert study("best", HAND, RING, *OF, *also, "--report", name).exit_code != 0
    assert Path("best.csv").read_text() == before
