"""What one rank computes, in one process: several stages, the gradients of the whole model."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mpsim.emulate.capture.cut import capture  # noqa: E402
from mpsim.emulate.real import Own, Recipe, Running  # noqa: E402
from mpsim.lowering.instructions import Collective, Compute, Receive, Send, Tied  # noqa: E402
from mpsim.plan.schedules import SCHEDULES, parse_rows  # noqa: E402


def tied():
    """Return an example whose first and last layer share their weight."""
    from mpsim.workload.example import Example

    torch.manual_seed(0)
    linear, tanh = (lambda: nn.Linear(4, 4)), nn.Tanh
    model = nn.Sequential(linear(), tanh(), linear(), tanh(), linear(), tanh(), linear())
    model[6].weight = model[0].weight
    return Example(model=model, inputs=(torch.randn(3, 4),), target=torch.randn(3, 4), loss=nn.functional.mse_loss)


def running(monkeypatch, example, stages, microbatches=2):
    monkeypatch.setattr("mpsim.emulate.real.example_of", lambda recipe: example)
    names = tuple(unit.name for unit in capture(example).units)
    return Running(
        Recipe(model="", microbatch=3, microbatches=microbatches, dp=1, tp=1, layers=names, stages=tuple(stages))
    )


def expected(example):
    """Return the gradients of the whole: of equal micro-batches, those of one."""
    example.loss(example.model(*example.inputs), example.target).backward()
    found = {name: parameter.grad.clone() for name, parameter in example.model.named_parameters()}
    example.model.zero_grad()
    return found


def compute(work, row, edges):
    for stage, kind, k, _ in row:
        work.compute(Compute(stage, kind, k, edges[stage], edges[stage + 1]))


@pytest.mark.parametrize("name", ["looped-bfs", "interleaved-zb", "zb-v"])
def test_stages_on_one_rank_find_the_gradients_of_the_whole(monkeypatch, name):
    example = tied()
    wanted = expected(example)
    (row,) = SCHEDULES[name](1, 2)
    edges = (0, 2, len(capture(example).units))
    work = running(monkeypatch, example, [Own(0, 0, edges[1]), Own(1, edges[1], edges[2])])
    assert work.shared == {"0.weight"}
    compute(work, row, edges)
    for stage in (0, 1):
        work.compute(Compute(stage, "U", -1, edges[stage], edges[stage + 1]))
    found = {}
    for at in work.stages.values():
        found |= {name: one.grad for name, one in at.part.parameters.items() if one.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)
    # One optimizer has the weight that both stages hold.
    owned = [id(one) for at in work.stages.values() for group in at.optimizer.param_groups for one in group["params"]]
    assert len(owned) == len(wanted)
    work.end_step()
    assert work.losses == pytest.approx([float(example.loss(example.model(*example.inputs), example.target).detach())])


def test_two_ranks_of_two_stages_each_exchange_messages_and_hand_over_in_place(monkeypatch):
    # Rank 0 has stages 0 and 3, rank 1 has 1 and 2: between 1 and 2 nothing is sent.
    example = tied()
    wanted = expected(example)
    edges = (0, 1, 2, 3, len(capture(example).units))
    own = [Own(i, edges[i], edges[i + 1]) for i in range(4)]
    ranks = [running(monkeypatch, example, stages, 1) for stages in ([own[0], own[3]], [own[1], own[2]])]

    def carry(source, target, stage, to, way, key):
        size = ranks[source].packing.bytes(ranks[source]._names(stage, way, sent=True))
        send = Send(key, target, size, stage, to, 0, way)
        receive = Receive(key, source, size, stage, to, 0, way)
        ranks[target].tensor(receive)().copy_(ranks[source].tensor(send)())
        ranks[source].landed(send)
        ranks[target].landed(receive)

    first, second = parse_rows("0F0 3F0 3B0 0B0\n1F0 2F0 2I0 1B0 2W0")
    compute(ranks[0], first[:1], edges)
    carry(0, 1, 0, 1, "F", 0)
    compute(ranks[1], second[:2], edges)
    carry(1, 0, 2, 3, "F", 1)
    compute(ranks[0], first[1:3], edges)
    carry(0, 1, 3, 2, "B", 2)
    compute(ranks[1], second[2:], edges)
    carry(1, 0, 1, 0, "B", 3)
    compute(ranks[0], first[3:], edges)
    # What several stages hold is summed where they are, before it is reduced with other ranks.
    step = Collective(9, Tied("0.weight"), "all_reduce", "pp", (0, 1), 64, 0, -1)
    torch.testing.assert_close(ranks[0].tensor(step)(), wanted.pop("0.weight"))
    found = {name: one for rank in ranks for at in rank.stages.values() for name, one in at.part.parameters.items()}
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name].grad, gradient)
