"""The wheel that `python -m build` makes works without the repository."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import mpsim

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the source distribution and of the wheel that is built from it."""
    for name in ("build", "hatchling"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "-o", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("mpsim-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel, this one's libraries, and no way to the repository."""
    folder = tmp_path_factory.mktemp("fresh")
    install = ["install", "-q", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    for words in (
        ["venv", "--without-pip", str(folder)],
        ["pip", "--python", str(folder / "bin" / "python"), *install],
    ):
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, env=environment())
    site = next(folder.glob("lib/python*/site-packages"))
    # A folder that a .pth file names has its own .pth files unread: mpsim as this environment has it is not found.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def environment():
    """This process's environment without ways to the repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(installed, folder, *words):
    done = subprocess.run(
        [str(installed / "bin" / words[0]), *words[1:]], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_everything_beside_the_code_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "mpsim").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT)) for path in files} <= inside
    assert not [name for name in inside if not name.startswith(("mpsim/", "mpsim-"))]


def test_the_version_is_the_package_s(wheel, built):
    assert wheel.name == f"mpsim-{mpsim.__version__}-py3-none-any.whl"
    name = f"mpsim-{mpsim.__version__}"
    with tarfile.open(built / f"{name}.tar.gz") as archive:
        assert f"{name}/workloads/gpt2.h200.json" in archive.getnames()
    assert f"\n## {mpsim.__version__}, " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_commands_run_elsewhere(installed, tmp_path):
    assert run(installed, tmp_path, "mpsim", "--version").startswith(f"mpsim {mpsim.__version__}")
    where = run(installed, tmp_path, "python", "-c", "import mpsim; print(mpsim.__file__)").strip()
    assert Path(where).is_relative_to(installed)
    assert "H200-SXM-141GB" in run(installed, tmp_path, "mpsim", "show", "catalog")
    assert "deepseek-v3" in run(installed, tmp_path, "mpsim", "trace", "--list")
    assert "back to back" in run(installed, tmp_path, "mpsim", "validate", "steps")
    stored = Path(where).parent / "workloads" / "gpt2.h200.json"
    words = ["--dp", "8", "--batch", "8", "--runtime", "torch-nccl", "--plot", "timeline.png"]
    assert "speedup" in run(installed, tmp_path, "mpsim", "simulate", str(stored), "dgx_h200", *words)
    assert (tmp_path / "timeline.png").stat().st_size > 10_000
