"""Plans as Megatron's flags and back; its pipeline layout by hand and at random."""

import contextlib
from dataclasses import replace

import pytest
from decoder_plans import BLOCKS, DECODER, MORE, POWERS, cuts
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.interchange.megatron import from_megatron, to_megatron
from mpsim.interchange.megatron_layout import layout_text, parse_layout
from mpsim.interchange.plan_losses import pipeline_outermost
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding


def test_layouts_by_hand():
    stages = parse_layout("Et*2|(t*2|)*34,t*3|L")
    assert stages == ["Ett", *["tt"] * 34, "ttt", "L"]
    assert parse_layout("Et*2|(tt|)*22t|(tt|)*7mL") == ["Ett", *["tt"] * 22, "t", *["tt"] * 7, "mL"]
    assert parse_layout("Et|(tt|)*22L")[-1] == "L"
    assert parse_layout("E|(t|(tt|)*2)*2L") == ["E", "t", "tt", "tt", "t", "tt", "tt", "L"]
    assert parse_layout("Et|tL|") == ["Et", "tL"]
    assert layout_text(stages) == "Et*2|(t*2|)*34,t*3|L"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Et|(tL", "does not close"),
        ("Et|t)L", "closes a bracket"),
        ("*3Et", "repeats nothing"),
        ("Ex|L", "has 'x'"),
        ("E(t|)*99999999999", "more than"),
    ],
)
def test_what_is_no_layout(text, words):
    with pytest.raises(MpsimError, match=words):
        parse_layout(text)


@given(st.lists(st.sampled_from(["t", "tt", "ttt", "m"]), min_size=1, max_size=12))
def test_a_layout_comes_back(middle):
    stages = ["E" + middle[0], *middle[1:], "L"]
    assert parse_layout(layout_text(stages)) == stages


@st.composite
def plans(draw):
    """Return plans that Megatron's flags say whole."""
    dp, pp, tp, cp = (draw(POWERS) for _ in range(4))
    chunks = draw(st.sampled_from([0, 2])) if pp in (2, 4) else 0
    stages = pp * max(chunks, 1)
    boundaries = draw(cuts(stages)) if pp > 1 else None
    replicas = dp * cp
    zero = draw(st.sampled_from([0, 1, 2, 3])) if replicas > 1 else 0
    shards = draw(st.sampled_from([0, 2])) if zero == 1 and replicas == 4 else 0
    bucket = draw(st.integers(1, 2**20)) * 4
    microbatches = draw(st.integers(1, 3)) * pp
    default = zero == 3 or replicas == 1
    return Plan(
        dp=dp, pp=pp, tp=tp, cp=cp, microbatches=microbatches, batch=dp * microbatches * draw(st.integers(1, 3)),
        ep=1 if shards else draw(st.sampled_from([1, replicas])),
        schedule="interleaved-1f1b" if chunks else "1f1b", chunks=chunks,
        boundaries=boundaries if boundaries is None or len(boundaries) == stages - 1 else None,
        bucket_bytes=25 * 2**20 if default else bucket, first_bucket_bytes=2**20 if default else bucket,
        devices=draw(st.sampled_from([(), pipeline_outermost(dp, pp, cp * tp)])),
        launch=draw(st.sampled_from(["", "graphs"])),
        sharding=Sharding(
            zero=zero, shards=shards, sequence=tp > 1 and draw(st.booleans()),
            reduce_dtype=draw(st.sampled_from(["", "float32"])) if zero else "",
            recompute=draw(st.sampled_from(["", "full", "selective"])),
        ),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(plans())
def test_a_plan_comes_back(plan):
    text, losses = to_megatron(plan, DECODER)
    assert set(losses.lines) <= {
        "stages that the plan leaves open: Megatron cuts them evenly",
        "the final norm is in the stage before the output: Megatron's own place for it holds",
    }
    if plan.boundaries is None and plan.pp > 1:
        found = from_megatron(text, None)[0]
    else:
        found = from_megatron(text, DECODER)[0]
        if plan.boundaries and plan.boundaries[-1] == BLOCKS + 2:  # the norm goes with the output
            plan = replaced(plan)
    assert found == plan


def replaced(plan):
    """Return the plan with the norm in the last stage."""
    return replace(plan, boundaries=(*plan.boundaries[:-1], BLOCKS + 1))


def test_flags_in_a_script_of_a_shell():
    script = """#!/bin/bash
torchrun --nproc_per_node 8 --nnodes=2 pretrain_gpt.py \\
    --tensor-model-parallel-size 2 --pipeline-model-parallel-size=4 --num-layers 8 --use-distributed-optimizer \\
    $MORE "--micro-batch-size 1 --global-batch-size 16" --sequence-parallel --recompute-activations # a remark
"""
    plan, losses = from_megatron(script, DECODER)
    assert (plan.dp, plan.pp, plan.tp, plan.microbatches, plan.boundaries) == (2, 4, 2, 8, (3, 5, 7))
    assert plan.devices == (0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)
    assert plan.sharding == Sharding(zero=1, sequence=True, recompute="selective")
    assert losses.lines == ("gradients in buckets of Megatron's own size: those of PyTorch stand for them",)


def test_first_and_last_stages_of_other_sizes():
    flags = "--pipeline-model-parallel-size 4 --micro-batch-size 1 --global-batch-size 4"
    more = " --decoder-first-pipeline-num-layers 1 --decoder-last-pipeline-num-layers 3"
    assert from_megatron(flags + more, DECODER, 4)[0].boundaries == (2, 4, 6)
    with pytest.raises(MpsimError, match="7 layers do not divide evenly over 3 stages"):
        from_megatron(flags + " --decoder-first-pipeline-num-layers 1", DECODER, 4)


def test_embeddings_are_one_letter():
    text = to_megatron(Plan(pp=2, batch=1, boundaries=(3,)), MORE)[0]
    assert "--pipeline-model-parallel-layout 'Et|tL'" in text
    assert from_megatron(text, MORE)[0].boundaries == (3,)
    with pytest.raises(MpsimError, match="cuts within the embeddings"):
        to_megatron(Plan(pp=2, batch=1, boundaries=(1,)), MORE)


REFUSED = {
    "schedule 'gpipe', Megatron runs 1f1b": Plan(pp=2, batch=2, microbatches=2, schedule="gpipe"),
    "3 micro-batches, Megatron's interleaved": Plan(pp=2, batch=3, microbatches=3, schedule="interleaved-1f1b"),
    "offload=all": Plan(batch=1, sharding=Sharding(offload="all")),
    "recompute=stages": Plan(batch=1, sharding=Sharding(recompute="stages")),
    "gather_dtype=bfloat16": Plan(dp=2, batch=2, sharding=Sharding(zero=1, gather_dtype="bfloat16")),
    "accumulate=True": Plan(dp=2, batch=2, sharding=Sharding(zero=2, accumulate=True)),
    "shards=2 at zero=3": Plan(dp=4, batch=4, sharding=Sharding(zero=3, shards=2)),
    "leaves its batch open": Plan(),
    "give the WORKLOAD": Plan(pp=2, batch=2, boundaries=(2,)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_megatron_cannot_say_is_refused(words):
    with pytest.raises(MpsimError, match=words):
        to_megatron(REFUSED[words])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--micro-batch-size 1", "how many ranks"),
        ("--nproc-per-node 2", "no --micro-batch-size"),
        ("--micro-batch-size $MBS # x\n# ranks: 2", r"is '\$MBS'"),
        ("# ranks: 3\n--micro-batch-size 1 --tensor-model-parallel-size 2", "3 ranks do not divide"),
        ("# ranks: 2\n--micro-batch-size 2 --global-batch-size 6", "does not divide by micro-batch 2 × dp 2"),
        ("# ranks: 1\n--micro-batch-size 1 --data-parallel-sharding-strategy x", "expected one of"),
        ("# ranks: 2\n--micro-batch-size 1 --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et|t|L",
         "3 stages, pp=2"),
        ("# ranks: 2\n--micro-batch-size 1 --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout Et|tL",
         "2 layers between E and L, the workload 8"),
        ("--micro-batch-size '1", "no list of flags"),
    ],
)  # fmt: skip
def test_flags_that_make_no_plan(text, words):
    with pytest.raises(MpsimError, match=words):
        from_megatron(text, DECODER)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="-tpm12 =\n'\"#sizecrobah", max_size=60))
def test_any_text_is_read_or_refused(text):
    for whole in (text, f"# ranks: 2\n--micro-batch-size 1 {text}"):
        with contextlib.suppress(MpsimError):
            from_megatron(whole, DECODER)
