"""Measured collectives: what calibrates is apart from what is judged, and the page says what the script finds."""

import importlib.util
import json
from pathlib import Path

import pytest

from mpsim.calibration import calibrate
from mpsim.calibration.run import geometric_mean_error
from mpsim.topology.spec import parse_topology

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "nccl_validation.py"


@pytest.fixture(scope="module")
def validation():
    spec = importlib.util.spec_from_file_location("nccl_validation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_halves_are_apart_and_whole(validation):
    points = validation.one_node("h100_sxm")
    known, asked = validation.halves(points)
    assert not {one.bytes for one in known} & {one.bytes for one in asked}
    assert len(known) + len(asked) == len(points) == 4 * 3 * 20


def test_half_the_sizes_of_an_h100_node_predict_the_others(validation):
    """The aim is 10 % over all sizes and 5 % from 1 MiB on; the second is missed by a little on some kinds."""
    known, asked = validation.halves([one for one in validation.one_node("h100_sxm") if one.kind == "reduce_scatter"])
    (row,) = validation.predict(calibrate(parse_topology("dgx_h100"), known).topology, asked, "h100_sxm")
    assert geometric_mean_error([error for _, error in row.errors]) < 0.05
    assert geometric_mean_error([error for size, error in row.errors if size >= 2**20]) < 0.05


def test_two_and_eight_gpus_predict_four(validation):
    points = [one for one in validation.one_node("a100_sxm") if one.kind == "all_reduce"]
    found = calibrate(parse_topology("dgx_a100"), [one for one in points if one.ranks != 4]).topology
    (row,) = validation.predict(found, [one for one in points if one.ranks == 4], "a100_sxm")
    assert geometric_mean_error([error for _, error in row.errors]) < 0.06


@pytest.mark.slow
def test_the_page_is_what_the_script_writes(validation):
    assert validation.PAGE.read_text() == validation.page()


@pytest.mark.slow
def test_published_costs_are_what_the_script_makes(tmp_path):
    import published_costs

    published_costs.save_published(tmp_path / "costs.json", published_costs.published())
    made, stored = (json.loads(Path(path).read_text()) for path in (tmp_path / "costs.json", published_costs.FILE))
    assert made == stored


def test_what_calibrated_presets_judges_none_of_them(validation):
    import published_costs

    assert not published_costs.BETWEEN_NODES.keys() & validation.AS_SHIPPED.keys()
