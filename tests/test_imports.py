"""What is loaded when, and what may be missing."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "matplotlib", "pandas", "pyarrow", "click", "jinja2")


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_mpsim_loads_nothing_heavy():
    done = python(f"import mpsim, sys; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_replaying_a_stored_workload_loads_nothing_heavy():
    code = (
        "import mpsim, sys\n"
        "layers = [mpsim.Layer.given(n, forward_s=1.0, backward_s=2.0) for n in 'ab']\n"
        "w = mpsim.Workload.chain('w', layers)\n"
        "t = mpsim.parse_topology('ring:2,link=nvlink4')\n"
        "print(mpsim.simulate(w, t, mpsim.Plan(pp=2)).step_s > 6)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert python(code).stdout.split("\n")[:2] == ["True", "[]"]


def test_models_are_traced_without_simpy():
    pytest.importorskip("torch")
    code = (
        "import sys; sys.modules['simpy'] = None; sys.modules['click'] = None\n"
        "import torch, mpsim\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))\n"
        "w = mpsim.trace(model, torch.ones(4, 8), repeats=1, warmup=0)\n"
        "print(len(w.layers))\n"
        "try:\n    mpsim.simulate\nexcept mpsim.MpsimError as error:\n    print(error)"
    )
    done = python(code)
    assert done.stdout.splitlines() == [
        "2",
        "mpsim.simulate needs simpy, which is not installed: pip install simpy",
    ], done.stderr


def test_help_loads_nothing_that_computes():
    code = "import sys; from mpsim.cli import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
    done = python(code + "print([m for m in ('numpy', 'simpy', 'mpsim.plan') if m in sys.modules])")
    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_every_public_name_is_there_and_no_other():
    code = (
        "import mpsim\nnames = [n for n in mpsim.__all__ if n not in ('trace', 'ModelSplitter', 'ParallelTrainer')]\n"
        "assert all(getattr(mpsim, n) is getattr(mpsim, n) for n in names)\nassert {*mpsim.__all__} <= {*dir(mpsim)}\n"
        "assert {*mpsim._ROOMS, 'MpsimError'} == {*mpsim.__all__}\nmpsim.simulat"
    )
    error = python(code).stderr.splitlines()[-1]
    assert error.startswith("AttributeError: module 'mpsim' has no attribute 'simulat'")


def test_an_editable_install_puts_the_repository_on_the_path(tmp_path):
    """Otherwise a script beside the clone imports the clone's folder, an empty namespace, and not the package."""
    root, clone, wheels = Path(__file__).parents[1], tmp_path / "mpsim", tmp_path / "wheels"
    backend = tomllib.loads((root / "pyproject.toml").read_text())["build-system"]["build-backend"]
    pytest.importorskip(backend)
    wheels.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "mpsim/__init__.py", "workloads/gpt2.h200.json"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, clone / name)
    code = f"import {backend} as backend; backend.build_editable({str(wheels)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"{backend} lacks what it makes editable installs with")
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (path,) = [name for name in files.namelist() if name.endswith(".pth")]
        assert files.read(path).decode().strip() == str(clone), done.stderr
        assert not [name for name in files.namelist() if "finder" in name]


def test_modules_can_be_imported_first():
    for module in ("simulation.run", "lowering.plan_words", "workload.reading", "search.run", "cli.planning"):
        done = python(f"import mpsim.{module}, mpsim; print(mpsim.{module}.__name__, mpsim.Plan.of('pp=2').pp)")
        assert done.stdout.split() == [f"mpsim.{module}", "2"], done.stderr
