"""Exported scripts, run by gloo ranks on the CPU: the unsplit model's losses, and the exchanges that were predicted."""

from __future__ import annotations

import functools
from collections import Counter

import pytest

torch = pytest.importorskip("torch")

import script_models  # noqa: E402
import script_ranks  # noqa: E402

import mpsim  # noqa: E402
from mpsim.errors import MpsimError  # noqa: E402
from mpsim.interchange.torch_script import torch_script  # noqa: E402
from mpsim.lowering.bind import scripts  # noqa: E402
from mpsim.lowering.instructions import Collective, Send  # noqa: E402
from mpsim.lowering.lower import lower  # noqa: E402
from mpsim.lowering.rescaling import roofline_of  # noqa: E402
from mpsim.plan.model import Plan  # noqa: E402
from mpsim.plan.sharding import Sharding  # noqa: E402
from mpsim.topology.builders import fully_connected  # noqa: E402
from mpsim.topology.wire import Wire  # noqa: E402

STEPS, MICROBATCH = 3, 2
DECODER = "script_models:decoder"


@functools.cache
def workload(blocks=4, tied=False):
    make = functools.partial(script_models.decoder, blocks=blocks, tied=tied)
    return mpsim.trace(
        make, microbatches=(MICROBATCH,), tensor=(1, 2), analytical=roofline_of("H100-SXM5-80GB"), progress=False
    )


@functools.cache
def unsplit(batch, tied=False):
    """Return the losses of the whole model on the whole batch."""
    torch.manual_seed(0)
    example = script_models.decoder(batch, tied=tied)
    optimizer = torch.optim.AdamW(example.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        loss = example.loss(example.model(*example.inputs), example.target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def predicted(plan, work, rank):
    """Return what a rank sends: collectives by kind, bytes and group, and messages by bytes and receiver."""
    lowering = lower(work, fully_connected(plan.ranks, link=Wire(1e9)), plan)
    steps = scripts(lowering)[plan.devices.index(rank) if plan.devices else rank].steps
    found = Counter((one.kind, one.bytes, tuple(one.group)) for one in steps if isinstance(one, Collective))
    return found, Counter(one.peer for one in steps if isinstance(one, Send))


def held_to(tmp_path, plan, tied=False):
    """Run the script of a plan, and compare the losses and what each rank sends."""
    work = workload(tied=tied)
    text, losses = torch_script(plan, work, DECODER, sizes={"tied": tied})
    script = tmp_path / "train.py"
    script.write_text(text)
    ranks = script_ranks.run(script, plan.ranks, STEPS)
    told = [found for found, _ in ranks if found[0] is not None]
    assert [sum(step) / len(told) for step in zip(*told, strict=True)] == pytest.approx(
        unsplit(plan.dp * plan.microbatches * MICROBATCH, tied), rel=1e-9
    )
    for rank, (_, calls) in enumerate(ranks):
        collectives, messages = predicted(plan, work, rank)
        assert {one: n for one, n in calls.items() if one[0] != "send"} == collectives
        sent = Counter()
        for (kind, _, group), count in calls.items():
            sent.update({group[0]: count} if kind == "send" else {})
        assert sent == messages
    return losses.lines


ONCE = {"zero": 3, "accumulate": True, "keep_gathered": True}
PLANS = {
    "dp": Plan(dp=2, microbatches=2),
    "fsdp": Plan(dp=2, microbatches=2, sharding=Sharding(zero=3)),
    "tp": Plan(tp=2, microbatches=2),
    "pp": Plan(pp=2, microbatches=4, boundaries=(3,)),
    "interleaved": Plan(pp=2, microbatches=4, schedule="interleaved-1f1b", boundaries=(1, 3, 5)),
    "tp-pp-dp": Plan(tp=2, pp=2, dp=2, microbatches=2, boundaries=(3,)),
    "tied weights, a V, split backward, shards": Plan(
        pp=2, dp=2, microbatches=4, boundaries=(2, 3, 4), schedule="zb-v", sharding=Sharding(**ONCE)
    ),
    "own rows": Plan(pp=2, microbatches=4, boundaries=(3,), schedule="gpipe-accumulated"),
    "hybrid": Plan(dp=4, microbatches=2, sharding=Sharding(**ONCE, shards=2, gather_ahead=2)),
    "tied weights, shards of shared layers": Plan(tp=2, dp=2, sharding=Sharding(zero=3)),
    "tied weights, placed, recomputed": Plan(
        pp=2, dp=2, microbatches=2, boundaries=(3,), devices=(0, 2, 1, 3), sharding=Sharding(recompute="stages")
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_script_computes_what_the_whole_model_does_and_sends_what_was_predicted(tmp_path, name):
    held_to(tmp_path, PLANS[name], tied="tied" in name)


def lines_of(plan):
    return torch_script(plan, workload(), DECODER)[1].lines


def test_what_is_otherwise_than_predicted_is_said():
    assert lines_of(Plan(dp=2)) == ()
    assert lines_of(Plan(pp=2, boundaries=(3,))) == (
        "each stage computes positions and masks itself: 48 B less a message than predicted",
    )
    (_, line) = lines_of(Plan(pp=2, dp=2, boundaries=(3,), sharding=Sharding(zero=3)))
    assert (
        line == "where stages shard, torch's pipelines gather less often, and reduce behind the last micro-batch alone"
    )
    (line,) = lines_of(Plan(dp=2, bucket_bytes=4096, first_bucket_bytes=1024))
    assert line == "the first bucket of gradients closes at 4 KiB too, predicted 1 KiB"
    (line,) = lines_of(Plan(tp=2, sharding=Sharding(recompute="full")))
    assert "fewer all-reduces than predicted" in line
    (line,) = lines_of(Plan(dp=2, algorithm="tree"))
    assert line == "algorithm tree: torch's library chooses (NCCL_ALGO)"


ZERO_ONE = {"dp": 2, "sharding": Sharding(zero=1)}
REFUSED = {
    "cp=2: a script of torch's shares no sequences": {"cp": 2},
    "ep=2: a script of torch's shares no experts": {"dp": 2, "ep": 2},
    r"zero=1: torch shards as DistributedDataParallel \(0\) or fully_shard \(3\)": ZERO_ONE,
    "sequence: a script of torch's shares layers alone": {"tp": 2, "sharding": Sharding(sequence=True)},
    "offload=all: a script of torch's keeps activations": {"sharding": Sharding(offload="all")},
    "recompute=selective: a script of torch's recomputes": {"sharding": Sharding(recompute="selective")},
    "launch=graphs: a script": {"launch": "graphs"},
    "plan leaves its stages open: give a TOPOLOGY": {"pp": 2},
    "schedule 'pipedream' updates amid the step": {
        "pp": 2, "microbatches": 2, "schedule": "pipedream", "boundaries": (3,)
    },
    "schedule 'chimera' has 2 copies of each stage": {
        "pp": 2, "microbatches": 2, "schedule": "chimera", "boundaries": (3,)
    },
    "schedule 'zb-auto' is made anew": {"pp": 2, "microbatches": 2, "schedule": "zb-auto", "boundaries": (3,)},
    "schedule 'zb-h1' splits backward": {
        "pp": 2, "dp": 2, "microbatches": 2, "schedule": "zb-h1", "boundaries": (3,)
    },
    r"plan places its 2 ranks on devices \[0, 2\]": {"dp": 2, "devices": (0, 2)},
    r"plan places the ranks of an axis, dp, on devices \[1, 0\]": {"dp": 2, "devices": (1, 0)},
    "heads": {"tp": 4},
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_torch_cannot_say_is_refused(words):
    with pytest.raises(MpsimError, match=words):
        torch_script(Plan(**REFUSED[words]), workload(), DECODER)


def test_what_cannot_be_cut_is_refused():
    work = mpsim.trace(
        script_models.residual, microbatches=(2,), analytical=roofline_of("H100-SXM5-80GB"), progress=False
    )
    model = "script_models:residual"
    with pytest.raises(MpsimError, match="stage 1 begins at 'second', which is not alone: third reads more"):
        torch_script(Plan(pp=2, boundaries=(1,)), work, model)
    with pytest.raises(MpsimError, match="Decoder has no module 'first'"):
        torch_script(Plan(), work, DECODER)
