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
from mpsim.interchange.torch_script import ModelName, torch_script  # noqa: E402
from mpsim.lowering.bind import scripts  # noqa: E402
from mpsim.lowering.instructions import Collective, Send  # noqa: E402
from mpsim.lowering.lower import lower  # noqa: E402
from mpsim.lowering.rescaling import roofline_of  # noqa: E402
from mpsim.plan.model import Plan  # noqa: E402
from mpsim.plan.sharding import Sharding  # noqa: E402
from mpsim.topology.builders import fully_connected  # noqa: E402
from mpsim.topology.wire import Wire  # noqa: E402

STEPS, MICROBATCH = 3, 2
DECODER = ModelName(name="script_models:decoder")


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
    steps = scripts(lowering)[rank].steps
    found = Counter((one.kind, one.bytes, tuple(one.group)) for one in steps if isinstance(one, Collective))
    return found, Counter(one.peer for one in steps if isinstance(one, Send))


def held_to(tmp_path, plan, tied=False):
    """Run the script of a plan, and compare the losses and what each rank sends."""
    work = workload(tied=tied)
    text, losses = torch_script(plan, work, ModelName(name=DECODER.name, sizes={"tied": tied}))
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


PLANS = {
    "dp": Plan(dp=2, microbatches=2),
    "fsdp": Plan(dp=2, microbatches=2, sharding=Sharding(zero=3)),
    "tp": Plan(tp=2, microbatches=2),
    "pp": Plan(pp=2, microbatches=4, boundaries=(3,)),
    "interleaved": Plan(pp=2, microbatches=4, schedule="interleaved-1f1b", boundaries=(1, 3, 5)),
    "tp-pp-dp": Plan(tp=2, pp=2, dp=2, microbatches=2, boundaries=(3,)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_script_computes_what_the_whole_model_does_and_sends_what_was_predicted(tmp_path, name):
    held_to(tmp_path, PLANS[name])
