"""What the documentation shows works as it is shown."""

import re
from pathlib import Path

import pytest

from mpsim.topology.builders import BUILDERS
from mpsim.topology.file import load_topology
from mpsim.topology.spec import parse_topology

PAGE = (Path(__file__).parents[2] / "docs" / "topology.md").read_text(encoding="utf-8")
WORDS = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()


@pytest.mark.parametrize("text", WORDS)
def test_each_topology_in_one_word(text):
    assert parse_topology(text).name == text


def test_every_builder_is_shown():
    assert {text.split(":")[0] for text in WORDS} == BUILDERS.keys()


def test_the_file_written_by_hand(tmp_path):
    (tmp_path / "boxes.json").write_text(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    assert [device.type for device in load_topology(tmp_path / "boxes.json").devices] == ["A100-SXM4-40GB", "mine"]
