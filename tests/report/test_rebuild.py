"""A row's plan is read back from its text, and its step is simulated again to the bit."""

from dataclasses import replace

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from reported import found, study, topology, workload

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.report.rebuild import plan_of_row, result_of_row
from mpsim.sweeps import sweep

SHARDINGS = [
    Sharding(),
    Sharding(zero=1, recompute="full"),
    Sharding(zero=3, gather_ahead=2, units="h.*,head", reshard_after_forward="none", gather_dtype="bfloat16"),
    Sharding(zero=2, accumulate=True, reduce_dtype="float32", offload="all", recompute="h.*,12"),
    Sharding(zero=3, keep_gathered=True, shards=2, sequence=True),
]


@st.composite
def plans(draw):
    dp, pp, tp = draw(st.sampled_from([2, 4])), draw(st.integers(1, 4)), draw(st.sampled_from([2, 4]))
    microbatches = draw(st.integers(1, 6))
    schedule = draw(st.sampled_from(["1f1b", "gpipe", "interleaved-1f1b", "zb-v"])) if pp > 1 < microbatches else "1f1b"
    ranks = dp * pp * tp
    return Plan(
        dp=dp, pp=pp, tp=tp, microbatches=microbatches, schedule=schedule, batch=dp * microbatches,
        boundaries=tuple(range(1, pp)) if pp > 1 and draw(st.booleans()) else None,
        devices=tuple(reversed(range(ranks))) if draw(st.booleans()) else (),
        sharding=draw(st.sampled_from(SHARDINGS)), launch=draw(st.sampled_from(["", "graphs"])),
        algorithm=draw(st.sampled_from(["ring", "hierarchical", "auto"])),
    )  # fmt: skip


@drawn(plans())
def test_a_plan_is_read_back_from_its_text(plan):
    row = {"plan": plan.text, "global_batch": plan.batch, "runtime": plan.runtime}
    alone = plan.pp > 1 and plan.microbatches == 1  # with one micro-batch 1f1b is the naive schedule, and says so
    assert plan_of_row(row) == (replace(plan, schedule="naive") if alone else plan)


def test_a_bucket_is_read_back_with_its_unit():
    plan = Plan(dp=2, batch=2, bucket_bytes=3 * 2**20)
    assert plan_of_row({"plan": plan.text, "global_batch": 2, "runtime": "ideal"}) == plan


@pytest.mark.parametrize("word", ["zero=x", "dp=x", "mine", "place=0,", "odd=1", "bucket=3"])
def test_what_is_no_word_of_a_plan_is_named(word):
    with pytest.raises(MpsimError, match="is no word of a plan"):
        plan_of_row({"plan": f"dp=2 pp=1 tp=1 micro-batches=1 {word}", "global_batch": 2, "runtime": "ideal"})


def test_every_row_of_a_search_is_simulated_again_to_the_bit():
    for row in found().sweep.ranked:
        plan, result, other = result_of_row(study(), row)
        assert (result.step_s, other) == (row["step_s"], "")
        assert len(result.spans)
        assert plan == found().plans[row["plan"]]


def test_every_row_of_a_sweep_is_simulated_again_to_the_bit():
    table = sweep(workload(), topology(), batch=8,
                  processes=1, schedules=["gpipe"])  # fmt: skip
    assert len(table.ranked) == 7
    for row in table.ranked:
        assert result_of_row(study(), row)[1].step_s == row["step_s"]


def test_a_step_that_is_not_the_tables_is_said_to_be_another():
    row = found().best | {"step_s": 17.0}
    assert "in the table 17 s" in result_of_row(study(), row)[2]
