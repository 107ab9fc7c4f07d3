"""Sequences shared by ranks, attention included: numbers against the whole, by ranks that are threads."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch.testing._internal.distributed.multi_threaded_pg import (  # noqa: E402
    _install_threaded_pg,
    _uninstall_threaded_pg,
)

from mpsim.errors import MpsimError  # noqa: E402
from mpsim.workload.context_parallel import METHODS, Context, cut_context  # noqa: E402
from mpsim.workload.example import Example  # noqa: E402
from mpsim.workload.ring_attention import Peers, _steps  # noqa: E402


def on_threads(ranks, run):
    """Return what `run(rank)` gives for each rank, each a thread, all in one process group."""
    import threading

    _install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    store, results, errors = dist.HashStore(), [None] * ranks, []

    def main(rank):
        try:
            dist.init_process_group("threaded", rank=rank, world_size=ranks, store=store)
            results[rank] = run(rank)
        except Exception as error:
            errors.append(error)

    try:
        threads = [threading.Thread(target=main, args=(rank,)) for rank in range(ranks)]
        [thread.start() for thread in threads]
        [thread.join(60) for thread in threads]
    finally:
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        _uninstall_threaded_pg()
    assert not errors, errors
    return results


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_an_attention_make_the_whole(method, causal, ranks):
    torch.manual_seed(0)
    q, k, v = (torch.rand(2, 4, 16, 8, dtype=torch.double) for _ in range(3))
    whole = [item.clone().requires_grad_() for item in (q, k, v)]
    F.scaled_dot_product_attention(*whole, is_causal=causal).square().sum().backward()

    def run(rank):
        peers = Peers(ranks, rank, dist.group.WORLD)
        cut = lambda x: cut_context(Example(model=None, inputs=(x.transpose(1, 2).flatten(2),)), method, peers)  # noqa: E731
        own = [cut(item).inputs[0].unflatten(2, (4, 8)).transpose(1, 2).clone().requires_grad_() for item in (q, k, v)]
        Context(method, peers)._attention(*own, is_causal=causal).square().sum().backward()
        return [item.grad for item in own], cut(torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 1)).inputs[0]

    found = on_threads(ranks, run)
    order = torch.cat([places.flatten() for _, places in found]).long()
    for i, item in enumerate(whole):
        gradient = torch.cat([gradients[i] for gradients, _ in found], 2)
        torch.testing.assert_close(gradient, item.grad[:, :, order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_rank_does_the_same_causal_work_and_all_together_do_the_wholes(ranks):
    """Pairs of a query and a key that it sees; of a step with a mask, the triangle of each piece and what is before."""
    length = 64
    own = length // ranks
    work = {
        sum(
            (step.queries.stop - step.queries.start) * (step.keys.stop - step.keys.start)
            if not step.causal
            else own * (own + 1) // 2
            for step in _steps(Peers(ranks, rank), own, own, causal=True)
        )
        for rank in range(ranks)
    }
    assert len(work) == 1
    assert ranks * work.pop() == length * (length + 1) // 2


def test_keys_of_several_queries_go_round_as_they_are():
    q, k = torch.rand(1, 4, 8, 8, requires_grad=True), torch.rand(1, 2, 8, 8, requires_grad=True)
    out = Context("ring", Peers(2, 0))._attention(q, k, k, is_causal=True, enable_gqa=True)
    out.sum().backward()
    assert out.shape == q.shape
    assert k.grad.shape == k.shape


@pytest.mark.parametrize("method", METHODS)
def test_autocast_is_of_what_is_exchanged_too(method):
    q = torch.rand(1, 2, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.scaled_dot_product_attention(q, q, q, is_causal=True).dtype
        out = Context(method, Peers(2, 0))._attention(q, q, q, is_causal=True)
    out.sum().backward()
    assert (out.dtype, q.grad.dtype) == (expected, torch.float32)


@pytest.mark.parametrize(
    ("attend", "message"),
    [
        (lambda c, x: c._attention(x, x, x, attn_mask=torch.ones(6, 6)), "this one has a mask: give the model no mask"),
        (
            lambda c, x: c._attention(x[:, :, :5], x[:, :, :5], x[:, :, :5], is_causal=True),
            "of 10 does not divide by 2",
        ),
        (lambda c, x: c._attention(x, x, x, dropout_p=0.5), "on a CPU takes no dropout"),
    ],
)
def test_attention_that_ranks_cannot_share_is_refused(attend, message):
    with pytest.raises(MpsimError, match=message) as error:
        attend(Context("ring", Peers(2, 0)), torch.rand(1, 3, 6, 8))
    assert "\n" not in str(error.value)


def test_heads_that_do_not_divide_are_refused_with_both_numbers():
    q = torch.rand(1, 3, 6, 8)
    with pytest.raises(MpsimError, match="3 attention heads do not divide by 2 context-parallel ranks"):
        Context("ulysses", Peers(2, 0))._attention(q, q, q)


def test_a_sequence_that_does_not_divide_is_refused_with_the_nearest_that_does():
    example = Example(model=None, inputs=(torch.zeros(2, 10, dtype=torch.long),))
    with pytest.raises(MpsimError, match="a sequence of 10 does not divide by 4 context-parallel ranks: 8 does"):
        cut_context(example, "ulysses", Peers(4, 0))
