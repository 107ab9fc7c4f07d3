"""The site of the documentation: strictly built, whole without a network, searched in a browser without a server."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import mpsim
from mpsim.cli import cli

ROOT = Path(__file__).parent.parent
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.parametrize("name", mpsim.__all__)
def test_every_public_name_has_an_example(name):
    if name in ("trace", "ModelSplitter", "ParallelTrainer"):
        pytest.importorskip("torch")
    assert ">>> " in (getattr(mpsim, name).__doc__ or ""), f"mpsim.{name} has no example"


def load(name):
    """Return a module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_public_values_hold_is_described():
    """Of each class that a public call takes or returns there is a place in the reference, or a word that it is not."""
    pytest.importorskip("mkdocs")
    pages = load("pages")
    held = pages.held()
    assert {"mpsim.search.found.Found", "mpsim.result.model.DeviceUse", "mpsim.plan.operations.Operation"} < {*held}
    page = pages.python_page()
    for name in held:
        assert name.startswith(pages.OWN) != (f"::: {name}\n" in page), name
        room, _, kind = name.rpartition(".")
        assert getattr(importlib.import_module(room), kind).__doc__, f"{name} says nothing"
    assert not [one for one in pages.OWN if not any(name.startswith(one) for name in held)]


def test_the_table_of_trust_is_of_the_rows_that_are_kept():
    """A number that no longer is what its rows, traces or page say is found here, in the README's table too."""
    import trust

    assert trust.page() == (ROOT / "docs" / "trust.md").read_text(encoding="utf-8"), "run python benchmarks/trust.py"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [said for said in trust.readme() if said not in readme]


def test_the_house_is_drawn_as_it_is():
    house = load("house")
    assert house.picture() == house.PICTURE.read_text(encoding="utf-8"), "run python docs/house.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site. Strict: a link or an anchor that leads nowhere, or a page in no menu, is an error."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"|<link[^>]* href="([^"]+)"', text)
        assert not [each for each in loaded if "//" in "".join(each)], page


@pytest.mark.slow
def test_the_reference_has_every_name_and_command(site):
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    headings = set(re.findall(r'<h[2-6] id="mpsim\.([\w.]+)"', text))
    missing = [name for name in mpsim.__all__ if not any(each.split(".")[-1] == name for each in headings)]
    assert not missing
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name in cli.list_commands(click.Context(cli)):
        assert f"mpsim {name}" in commands


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")
def test_it_is_searched_without_a_server(site, tmp_path):
    page = f"{(site / 'glossary.html').as_uri()}?q=interleaved"
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    words += ["--virtual-time-budget=20000", "--dump-dom", page]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert re.search(r"<h1[^>]*>Glossary", text)
    assert re.search(r"md-search-result__meta[^>]*>\s*\d+ matching document", text)
    assert re.search(r'<a href="[^"]*schedules\.html\?[^"]*" class="md-search-result__link"', text)
