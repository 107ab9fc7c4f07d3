"""People's own configurations, predicted with what they exchange laid on links, and ranked among others."""

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from mpsim.cli import cli
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.validate.published.decoder import Decoder, Roofline
from mpsim.validate.published.folding import State
from mpsim.validate.recipes import Judged, Recipes, validate_recipes
from mpsim.validate.recipes.judged import errors_by_system
from mpsim.validate.recipes.recipe import placed, shared_among
from mpsim.validate.recipes.shares import Training, workload_of
from mpsim.validate.recipes.text import recipes_table
from mpsim.workload.device_spec import DeviceSpec
from mpsim.workload.split import WHOLE, Split

SIZES = Decoder(layers=2, hidden=64, heads=4, kv_heads=4, ffn=256, vocabulary=512)
MIXED = replace(SIZES, experts=4, chosen=2)
CUT = Split(2, 2, 1, True)


def training(**changed: object) -> Training:
    rates = Roofline(DeviceSpec(name="d", peak_flops_per_s={"bfloat16": 1e12}, memory_bytes_per_s=1e11), "bfloat16")
    words: dict[str, Any] = {"decoder": SIZES, "sequence": 16, "device": "d", "rates": rates, "plain": rates}
    words |= {"state": State(), "ends": State(), "update_bytes": 1.0}
    return Training(**(words | changed))


def test_every_layer_has_costs_at_every_point():
    work = workload_of(training(), [(1, WHOLE), (2, WHOLE), (1, CUT)], 1.0)
    assert [layer.name for layer in work.layers] == ["embedding", "block0", "block1", "head"]
    assert all(len(layer.costs) == 3 and len(layer.shards) == 2 for layer in work.layers)
    assert work.layers[2].shards[0].parameters[0].name == "block1"


def test_ranks_that_share_a_sequence_and_weights_exchange_what_the_paper_says():
    """Two gathers and two scatters a pass among tp ranks, keys and values among cp ranks, of bf16 activations."""
    work = workload_of(training(), [(1, CUT)], 1.0)
    stream, keys = 2 * (16 // 2) * 64, 2 * 2 * 16 * 64 // 2
    found = {(one.phase, one.axis, one.kind): one.bytes for one in work.layers[1].costs[0].collectives}
    assert found == {
        ("forward", "tp", "all_gather"): 2 * stream, ("forward", "tp", "reduce_scatter"): 2 * stream,
        ("backward", "tp", "all_gather"): 2 * stream, ("backward", "tp", "reduce_scatter"): 2 * stream,
        ("forward", "cp", "all_gather"): keys, ("backward", "cp", "all_gather"): keys,
        ("backward", "cp", "reduce_scatter"): keys,
    }  # fmt: skip


def test_what_goes_beside_computation_is_said_and_its_time_is_in_no_layer():
    beside, behind = (workload_of(training(beside=axes), [(1, CUT)], 1.0) for axes in (("tp",), ()))
    whens = [{one.when for one in work.layers[1].costs[0].collectives if one.axis == "tp"} for work in (beside, behind)]
    assert whens == [{"beside"}, {"before", "behind"}]
    assert beside.layers[1].costs[0].samples == behind.layers[1].costs[0].samples


def test_a_rank_sends_its_part_of_a_message():
    tensor = workload_of(training(), [(1, WHOLE), (1, CUT)], 1.0).tensors[1]
    assert (tensor.bytes(), tensor.bytes(CUT)) == (2 * 16 * 64, 2 * 16 * 64 // 4)


def test_experts_are_reduced_among_those_that_hold_the_same():
    split = Split(ep=2)
    layer = workload_of(training(decoder=MIXED), [(1, WHOLE), (1, split)], 1.0).layers[1]
    whole, half = (layer.shard(one).gradients for one in (WHOLE, split))
    assert [one.expert for one in half] == [False, True]
    assert whole[0] == half[0]
    assert whole[1].bytes == 2 * half[1].bytes == 4 * 4 * 3 * 64 * 256
    assert {(one.axis, one.kind) for one in layer.costs[1].collectives} == {("ep", "all_to_all")}


def test_kept_scores_are_what_selective_recomputation_drops():
    kept, fused = (workload_of(training(keeps_scores=keeps), [(2, WHOLE)], 1.0) for keeps in (True, False))
    one, other = kept.layers[1].costs[0], fused.layers[1].costs[0]
    assert one.attention.saved_bytes == one.saved_bytes - other.saved_bytes == 5 * 2 * 4 * 16 * 16


def test_half_the_speed_takes_twice_as_long():
    fast, slow = (workload_of(training(), [(1, WHOLE)], speed).layers[1].costs[0].samples for speed in (1.0, 0.5))
    assert slow.forward_s[0] == 2 * fast.forward_s[0]


def test_stages_lie_outermost_and_ranks_that_share_layers_are_neighbours():
    plan = shared_among(Plan(dp=4, pp=2), 2, 2, 2, sequence=True)
    assert plan.devices[:4] == (0, 1, 2, 3)  # cp × tp of the first replica's first stage
    assert plan.devices[4:8] == (8, 9, 10, 11)  # of its second, behind all replicas of the first
    assert placed(Plan(dp=4)).devices == ()


def test_errors_are_of_rows_that_judge():
    row = Judged(file="f", case="a", system="s", measured=100.0, predicted=110.0)
    rows = [row, replace(row, predicted=95.0), replace(row, system="t", calibrates="a speed")]
    first, second, every = errors_by_system(rows)
    assert (first.count, second.count, second.calibrating, every.count) == (2, 0, 1, 2)
    assert first.mean_fraction == pytest.approx(0.075)
    assert first.bias_fraction == pytest.approx(0.025)
    assert "calibrates" in recipes_table(Recipes(rows=tuple(rows)))


def test_the_row_that_calibrates_is_met_and_others_judge():
    first, other = (validate_recipes(matching=name).rows[0] for name in ("1.7B, tp=1", "3.6B, tp=2"))
    assert first.calibrates
    assert first.predicted == pytest.approx(first.measured, rel=1e-5)
    assert other.judges
    assert abs(other.error_fraction) < 0.05


def test_known_rows_are_not_found_again():
    known = Judged(file="megatron_sc21_table1", case="1.7B, tp=1 pp=1 dp=32", refused="known")
    assert validate_recipes(matching="1.7B", done=[known]).rows == (known,)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"only": ["megatron_sc21"]}, "megatron_sc21_table1"), ({"matching": "GPT-5"}, "no recipe has 'GPT-5'")],
)
def test_what_is_not_there_is_refused(asked, reason):
    with pytest.raises(MpsimError, match=reason):
        validate_recipes(**asked)


def test_a_command_says_what_it_found(tmp_path):
    path = tmp_path / "rows.csv"
    arguments = ["validate", "recipes", "--match", "LLAMA3_8B, 8 of DGX-B200", "-o", str(path)]
    said = CliRunner().invoke(cli, arguments)
    assert said.exit_code == 0
    assert "calibrates" in said.stdout
    again = CliRunner().invoke(cli, [*arguments, "--json"])
    assert [row["devices"] for row in json.loads(again.stdout)["rows"]] == [8, 8]


def test_a_row_that_cannot_be_predicted_is_refused_with_its_reason():
    said = CliRunner().invoke(cli, ["validate", "recipes", "--match", "DeepSeekV3+MTP"])
    assert "refused: attention of DeepSeek's latent kind is not counted here" in said.stdout
