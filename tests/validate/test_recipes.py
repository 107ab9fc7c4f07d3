"""People's own configurations, predicted with what they exchange laid on links, and ranked among others."""

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from mpsim.cli import cli
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.result.model import DeviceUse
from mpsim.validate.published.decoder import Decoder, Roofline
from mpsim.validate.published.folding import Machine, State
from mpsim.validate.recipes import Judged, Recipes, validate_recipes
from mpsim.validate.recipes.candidates import Estimator, candidate_of, candidates, plan_as
from mpsim.validate.recipes.judged import errors_by_system
from mpsim.validate.recipes.recipe import Choices, Recipe, placed, shared_among, step_of
from mpsim.validate.recipes.searching import searched
from mpsim.validate.recipes.shares import Training, workload_of
from mpsim.validate.recipes.text import recipes_table
from mpsim.validate.recipes.why import why
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
    assert "refused: the sizes of 'DeepSeekV3+MTP' are not known here" in said.stdout


def recipe(**changed: Any) -> Recipe:
    words: dict[str, Any] = {"case": "a", "system": "s", "kind": ("k",), "training": training(device="A100-SXM4-80GB")}
    words |= {"machine": Machine("A100-SXM4-80GB", "nvlink3", "ib_hdr"), "plan": Plan(dp=4, microbatches=2, batch=8)}
    words |= {"microbatch": 1, "measured_s": 1.0, "choices": Choices(zero=(0, 3), recompute=("", "block*"))}
    return Recipe(**(words | changed))


def test_candidates_take_all_devices_and_the_whole_batch_once_each():
    found = list(candidates(recipe()))
    assert found[0] == candidate_of(recipe())
    assert len(found) == len(set(found))
    for one in found:
        plan = plan_as(recipe(), one)
        assert (plan.ranks, plan.batch) == (4, 8)
        assert one.dp * one.microbatch * one.microbatches == 8
        assert one.pp == 1 or one.zero < 3
        assert one.split.sequence == (one.split.tp > 1)


def test_what_a_framework_could_not_run_is_no_candidate():
    asked = recipe(choices=Choices(zero=(0,), recompute=("",), sequence=False, context=True, keeps=True))
    found = list(candidates(asked))
    assert {(one.zero, one.recompute, one.split.sequence) for one in found} == {(0, "", False)}
    assert {one.split.cp for one in found} == {1, 2, 4}


@pytest.mark.parametrize(
    "plan",
    [
        Plan(dp=4, microbatches=2, batch=8),
        Plan(dp=4, microbatches=2, batch=8, sharding=Sharding(zero=3)),
        Plan(dp=2, tp=2, microbatches=4, batch=8, sharding=Sharding(sequence=True)),
        Plan(dp=2, pp=2, microbatches=4, batch=8, boundaries=(2,), devices=(0, 2, 1, 3)),
        Plan(dp=4, microbatches=2, batch=8, sharding=Sharding(recompute="block*")),
    ],
)
def test_an_estimate_is_near_the_replay(plan):
    """Of a model whose products, not latencies, take the time."""
    large = Decoder(layers=2, hidden=4096, heads=32, kv_heads=32, ffn=16_384, vocabulary=1024)
    asked = recipe(training=training(decoder=large, sequence=4096, device="A100-SXM4-80GB"), plan=plan)
    result = step_of(asked, 1.0)
    found = Estimator(asked, 1.0).of(candidate_of(asked))
    assert found.step_s == pytest.approx(result.step_s, rel=0.05)
    assert found.bytes == pytest.approx(max(use.memory.peak_bytes for use in result.devices), rel=0.35)


def test_theirs_is_ranked_and_the_best_is_replayed():
    row = validate_recipes(matching="FSDP 8, seq 8192, selective, FSDP + torch.compile + Float8", ranking=True).rows[0]
    assert (row.rank, row.best, row.gain_fraction, row.why) == (1, row.plan, 0.0, "")
    assert 1 < row.replayed <= row.others
    assert "theirs" in recipes_table(Recipes(rows=(row,)))


def test_a_search_is_no_slower_than_theirs():
    asked = recipe(choices=Choices(zero=(0,), recompute=("",)))
    predicted = asked.tokens_per_s(step_of(asked, 1.0).step_s)
    judged = Judged(file="f", case="a", system="s", measured=1.0, predicted=predicted)
    found = searched(asked, 1.0, judged)
    assert 0 < found.simulated <= found.searched
    assert found.searched_fraction >= 0
    assert "best, proved" in recipes_table(Recipes(rows=(found,)))


def test_why_ours_is_no_choice_of_theirs_is_said():
    tried = replace(recipe().plan, tp=2, dp=2, microbatches=4)
    theirs = step_of(recipe(), 1.0)
    judged = Judged(
        file="f", case="a", measured=100.0, predicted=130.0, best_tokens_per_s=150.0, needs_bytes=90 * 2**30,
        capacity_bytes=80 * 2**30, alike="dp=4", alike_tokens_per_s=130.0,
    )  # fmt: skip
    said = why(recipe(), judged, theirs, tried, replace(theirs, devices=tuple(half(one) for one in theirs.devices)))
    assert said.startswith("of their step ours saves")
    for part in ("needs 90 GiB by this count and ran on 80 GiB", "as fast on parts of a matrix", "30 % off, more than"):
        assert part in said
    assert "at their micro-batch and recomputation dp=4 is the best of those replayed and claims +0.0 %" in said
    assert why(recipe(), replace(judged, best_tokens_per_s=140.0), theirs, tried, theirs) == ""


def half(use: DeviceUse) -> DeviceUse:
    return replace(use, compute_s=use.compute_s / 2)
