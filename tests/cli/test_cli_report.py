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
    text = Path("report.html").read_text()
    assert "The cluster ring:4,link=eth_10g" in text
    assert "mpsim report best.csv WORKLOAD TOPOLOGY -o report.html" in text


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
