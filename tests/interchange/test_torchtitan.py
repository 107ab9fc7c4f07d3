"""Plans as torchtitan's TOML and back."""

from dataclasses import replace

import pytest
from decoder_plans import DECODER, MORE, POWERS, cuts
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.interchange.plan_losses import pipeline_outermost
from mpsim.interchange.torch_schedules import class_name, rows_as_csv
from mpsim.interchange.torchtitan import from_torchtitan, to_torchtitan
from mpsim.plan.model import MIB, Plan
from mpsim.plan.operations import parse_rows
from mpsim.plan.sharding import Sharding

SEVERAL = ["looped-bfs", "interleaved-1f1b", "interleaved-zb", "zb-v"]


@st.composite
def plans(draw):
    """Return plans that torchtitan's options say whole."""
    dp, pp, tp, cp = (draw(POWERS) for _ in range(4))
    sharded = cp > 1 or (dp > 1 and draw(st.booleans()))
    several = draw(st.booleans()) if pp in (2, 4) else False
    schedule = draw(st.sampled_from(SEVERAL if several else ["1f1b", "gpipe", "zb-h1"])) if pp > 1 else "1f1b"
    stages = pp * 2 if several else pp
    microbatches = draw(st.integers(1, 3)) * pp
    boundaries = draw(cuts(stages)) if pp > 1 else None
    shards = draw(st.sampled_from([0, 2 * cp])) if sharded and dp == 4 else 0
    return Plan(
        dp=dp, pp=pp, tp=tp, cp=cp, microbatches=microbatches, batch=dp * microbatches * draw(st.integers(1, 3)),
        ep=1 if shards else draw(st.sampled_from([1, dp])), schedule=schedule, chunks=2 if several else 0,
        boundaries=boundaries if boundaries is not None and len(boundaries) == stages - 1 else None,
        devices=pipeline_outermost(dp, pp, cp * tp),
        bucket_bytes=100 * MIB if dp > 1 and not sharded else 25 * MIB,
        first_bucket_bytes=100 * MIB if dp > 1 and not sharded else MIB,
        sharding=Sharding(
            zero=3 if sharded else 0, shards=shards, sequence=tp > 1, recompute=draw(st.sampled_from(["", "full"])),
            reshard_after_forward=draw(st.sampled_from(["blocks", "none"])) if sharded else "blocks",
            gather_dtype=draw(st.sampled_from(["bfloat16", "float32"])) if sharded else "",
            reduce_dtype="float32" if sharded else "",
        ),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(plans())
def test_a_plan_comes_back(plan):
    own = plan.pp > 1 and not class_name(plan)
    text, losses = to_torchtitan(plan, DECODER, "rows.csv")
    assert set(losses.lines) <= {
        "the type that parameters are gathered and multiplied in: torchtitan's own is bfloat16",
        "stages that the plan leaves open: torchtitan cuts them itself",
    }
    found, _ = from_torchtitan(text, DECODER, rows=parse_rows(rows_as_csv(plan)) if own else None)
    if own or (plan.microbatches == 1 and plan.pp > 1):
        assert found.rows() == plan.rows()
        found = replace(found, schedule=plan.schedule)
    assert found == plan


def test_what_torchtitans_own_defaults_mean():
    text = "[training]\nlocal_batch_size = 8\n[parallelism]\npipeline_parallel_degree = 2\ntensor_parallel_degree = 2\n"
    plan, losses = from_torchtitan(text, DECODER, ranks=8)
    assert (plan.dp, plan.batch, plan.microbatches, plan.schedule) == (2, 16, 8, "1f1b")
    assert plan.sharding == Sharding(
        zero=3, sequence=True, reshard_after_forward="none", gather_dtype="bfloat16", reduce_dtype="float32"
    )
    assert losses.lines == (
        "which layers each stage has",
        "activation_checkpoint selective: nothing is computed again here",
    )


def test_stages_by_name():
    text, _ = to_torchtitan(Plan(pp=2, batch=2, boundaries=(3,)), MORE)
    assert '[["tok_embeddings", "layers.0"], ["layers.1", "norm", "output"]]' in text
    assert from_torchtitan(text, MORE)[0].boundaries == (3,)
    with pytest.raises(MpsimError, match="cuts within the embeddings"):
        to_torchtitan(Plan(pp=2, batch=2, boundaries=(1,)), MORE)
    with pytest.raises(MpsimError, match="has not the workload's layers"):
        from_torchtitan(text, DECODER)


REFUSED = {
    "zero=1": Plan(dp=2, batch=2, sharding=Sharding(zero=1)),
    "tp=2 without sequence": Plan(tp=2, batch=2),
    "offload=all": Plan(batch=1, sharding=Sharding(offload="all")),
    "recompute=selective": Plan(batch=1, sharding=Sharding(recompute="selective")),
    "cp=2 without zero=3": Plan(cp=2, batch=2),
    "reshard_after_forward=all": Plan(dp=2, batch=2, sharding=Sharding(zero=3, reshard_after_forward="all")),
    "launch=graphs": Plan(batch=1, launch="graphs"),
    "schedule 'zb-h1' is none of torch's": Plan(pp=2, batch=2, microbatches=2, schedule="zb-h1"),
    "leaves its batch open": Plan(),
    "give the WORKLOAD": Plan(pp=2, batch=2, boundaries=(2,)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_torchtitan_cannot_say_is_refused(words):
    with pytest.raises(MpsimError, match=words):
        to_torchtitan(REFUSED[words])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[parallelism", "no TOML"),
        ("a = 1", r"no table \[training\] or \[parallelism\]"),
        ("parallelism = 3", r"no table \[training\] or \[parallelism\]"),
        ("[parallelism]\ntensor_parallel_degree = 'x'", "tensor_parallel_degree is 'x', expected a whole"),
        ("[parallelism]\ntensor_parallel_degree = true", "is True, expected a whole"),
        ("[parallelism]\ntensor_parallel_degree = 2", "give --ranks"),
        ("# ranks: 3\n[parallelism]\ntensor_parallel_degree = 2", "3 ranks do not divide"),
        ("# ranks: 4\n[parallelism]\ndata_parallel_shard_degree = 2", "make 2 ranks, 4 were said"),
        (
            "# ranks: 2\n[parallelism]\npipeline_parallel_degree = 2\npipeline_parallel_schedule = '2F2B'",
            "none of torch's",
        ),
        ("# ranks: 2\n[parallelism]\npipeline_parallel_degree = 2\nmodule_fqns_per_model_part = [['a'], 1]", "no list"),
        ("# ranks: 2\n[parallelism]\npipeline_parallel_degree = 2\nmodule_fqns_per_model_part = [['a']]", "1 parts"),
        (
            "# ranks: 2\n[parallelism]\npipeline_parallel_degree = 2\npipeline_parallel_schedule_csv = 'a.csv'",
            "'a.csv'",
        ),
        ("# ranks: 2\n[parallelism]\nfsdp_reshard_after_forward = 'x'", "expected default, always or never"),
        ("# ranks: 2\n[training]\nglobal_batch_size = 3", "global batch 3 does not divide"),
    ],
)
def test_toml_that_makes_no_plan(text, words):
    with pytest.raises(MpsimError, match=words):
        from_torchtitan(text, DECODER)
