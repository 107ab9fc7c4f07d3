"""The README's commands and code run as they are printed."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpsim.cli import cli
from mpsim.workload.file import load_workload

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("mpsim ")]
# These run a model, or processes that load torch, or what those have written.
WITH_TORCH = [line for line in COMMANDS if line.startswith(("mpsim trace", "mpsim emulate")) or "links.json" in line]
PICTURES = re.findall(r"`(mpsim [^`\n]*gpt2\.(?:h200|csv)[^`\n]*)`", README)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the README's trace has been made, and the stored ones stand beside."""
    shutil.copy(ROOT / "workloads" / "mnist-mlp.cpu.json", tmp_path / "mlp.json")
    (tmp_path / "workloads").symlink_to(ROOT / "workloads")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def gpt2_rows(tmp_path_factory):
    """A cache of rows for the pictures and the demo, which sweep the same plans of GPT-2."""
    return str(tmp_path_factory.mktemp("rows"))


def run(line):
    done = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


def test_there_is_something_to_run():
    assert len(COMMANDS) >= 8
    assert len(PICTURES) == 3
    assert len(WITH_TORCH) == 3
    assert len(blocks("python")) == 2


def test_commands_in_order(folder):
    for line in COMMANDS:
        if line not in WITH_TORCH:
            run(line)
    assert {path.name for path in folder.glob("*.png")} == {"timeline.png", "speedup.png"}


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


def test_python(folder, capsys):
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert "fidelity        given" in capsys.readouterr().out


def test_a_model_is_split(folder):
    pytest.importorskip("torch")
    names = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    assert names["output"].shape == (100, 10)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


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
