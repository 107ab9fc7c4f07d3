"""The commands and code of the README, the tutorial and the how-tos run as they are printed."""

import dataclasses
import shutil

import pytest
from printed import HOW_TO, README, ROOT, TUTORIAL, run, with_torch

import mpsim
from mpsim.workload.file import load_workload

PAGES = [README, *HOW_TO]
COMMANDS = [line for page in PAGES for line in page.commands]
WITH_TORCH = [line for line in COMMANDS if with_torch(line)]
PICTURES = [line for page in PAGES for line in page.pictures]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the trace of the how-tos has been made, and the stored ones stand beside."""
    shutil.copy(ROOT / "workloads" / "mnist-mlp.cpu.json", tmp_path / "mlp.json")
    (tmp_path / "workloads").symlink_to(ROOT / "workloads")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def gpt2_rows(tmp_path_factory):
    """A cache of rows for the pictures and the demo, which sweep the same plans of GPT-2."""
    return str(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def trusted(monkeypatch):
    """Let no trace be doubted: of what was traced on a busy machine nothing may be predicted."""
    pytest.importorskip("torch")
    traced = mpsim.trace

    def trace(*given, **named):
        return dataclasses.replace(traced(*given, **named), checks=())

    monkeypatch.setattr(mpsim, "trace", trace)


def test_there_is_something_to_run():
    assert len(COMMANDS) >= 20
    assert len(PICTURES) == 3
    assert len(WITH_TORCH) == 3
    assert len(TUTORIAL.commands) >= 6
    assert [len(page.blocks("python")) for page in (README, TUTORIAL)] == [1, 3]


def test_the_readme_is_two_screens():
    assert len(README.text.splitlines()) <= 80


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.name)
def test_commands_in_order(page, folder):
    for line in page.commands:
        if not with_torch(line):
            run(line)
    drawn = {"docs/how-to/simulate.md": {"timeline.png", "zb-v.png"}, "docs/how-to/best.md": {"speedup.png"}}
    assert {path.name for path in folder.glob("*.png")} == drawn.get(page.name, set())


@pytest.mark.slow
def test_the_pictures_are_made_as_it_says(folder, gpt2_rows, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", gpt2_rows)
    for line in PICTURES:
        run(line)
    for name in ("speedup.png", "timeline.png"):
        assert (folder / name).stat().st_size > 10_000


@pytest.mark.slow
def test_traces_and_real_runs(folder):
    pytest.importorskip("torch")
    for line in WITH_TORCH:
        run(line)
        if line.startswith("mpsim trace"):
            assert load_workload("mlp.json").name == "mnist-mlp"
            # Of what was traced on a busy machine nothing may be predicted: the other lines take the stored trace.
            shutil.copy(ROOT / "workloads" / "mnist-mlp.cpu.json", "mlp.json")


def test_python_of_the_how_tos(folder, capsys):
    for page in HOW_TO:
        for code in page.blocks("python"):
            if "import torch" not in code:
                exec(compile(code, page.name, "exec"), {})
    assert "fidelity        given" in capsys.readouterr().out


def test_a_model_is_split(folder):
    pytest.importorskip("torch")
    names = {}
    code = next(code for page in HOW_TO for code in page.blocks("python") if "import torch" in code)
    exec(compile(code, "run.md", "exec"), names)
    assert names["output"].shape == (100, 10)


@pytest.mark.slow
def test_the_model_of_the_readme(folder, trusted, capsys):
    exec(compile(README.blocks("python")[0], "README.md", "exec"), {})
    assert "times as fast as one device" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tutorial_from_its_first_line_to_its_last(folder, trusted, capsys, monkeypatch):
    own_step, factory, split = TUTORIAL.blocks("python")
    names = {}
    exec(compile(own_step, "tutorial.md", "exec"), names)
    assert "times as fast as one device" in capsys.readouterr().out
    assert names["found"].best["fits"]
    (folder / "own.py").write_text(factory)
    monkeypatch.syspath_prepend(folder)
    for line in TUTORIAL.commands:
        run(line)
    assert load_workload("own.json").provenance
    exec(compile(split, "tutorial.md", "exec"), names)
    assert names["output"].shape == (100, 10)


def test_links_lead_somewhere():
    for page in (README, TUTORIAL, *HOW_TO):
        for target in page.links:
            assert ((ROOT / page.name).parent / target).exists(), (page.name, target)


@pytest.mark.slow
def test_the_demo(folder, gpt2_rows, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CACHE_HOME", gpt2_rows)
    out = run("mpsim demo")
    assert "cannot be run" in out
    assert {path.name for path in (folder / "out/demo").iterdir()} == {
        "mnist-mlp.json",
        "sweep.csv",
        "speedup.png",
        "timeline.png",
        "gpt2.csv",
        "gpt2-speedup.png",
    }
