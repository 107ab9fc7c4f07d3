"""Who writes what of a checkpoint, by hand: all of the state once, whatever replicas hold alike, shard or split."""

import pytest

from mpsim.failures.state import State, state_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire
from mpsim.workload.layers import Cost, Gradient, Layer, Parameter, Samples, Shard
from mpsim.workload.model import Workload

# One parameter of 64 bytes, of experts 32 a rank, and twice as much of each in the optimizer.
COMMON, EXPERTS = 64, 32


def state(plan, experts=0, **axes):
    sizes = {"w": COMMON} | ({"e": experts} if experts else {})
    shard = Shard(
        **axes,
        parameters=tuple(Parameter(name=name, shape=(count // 4,)) for name, count in sizes.items()),
        gradients=tuple(Gradient(parameter=name, bytes=n, expert=name == "e") for name, n in sizes.items()),
        optimizer_bytes=2 * sum(sizes.values()),
    )
    samples = Samples(forward_s=(1.0,), backward_input_s=(1.0,), backward_weight_s=(1.0,))
    layer = Layer(name="a", shards=(shard,), costs=(Cost(microbatch=1, **axes, samples=samples),))
    return state_of(lower(Workload.chain("one", [layer]), fully_connected(4, link=Wire(1e9)), plan))


@pytest.mark.parametrize(
    ("sharding", "held", "written"),
    [
        (Sharding(), (192,) * 4, (192, 0, 0, 0)),
        (Sharding(zero=1), (96,) * 4, (96, 32, 32, 32)),
        (Sharding(zero=2), (96,) * 4, (96, 32, 32, 32)),
        (Sharding(zero=3), (48,) * 4, (48, 48, 48, 48)),
        (Sharding(zero=1, shards=2), (128,) * 4, (128, 64, 0, 0)),
        (Sharding(zero=3, shards=2), (96,) * 4, (96, 96, 0, 0)),
    ],
)
def test_replicas(sharding, held, written):
    assert state(Plan(dp=4, sharding=sharding)) == State(held, written)


def test_ranks_of_a_sequence_hold_the_same():
    assert state(Plan(dp=2, cp=2), context_parallel=2) == State((192,) * 4, (192, 0, 0, 0))


def test_each_set_of_experts_is_written_by_the_first_that_have_it():
    """Two sets, each on two ranks: 96 bytes of each, 192 of the rest."""
    plain = state(Plan(dp=4, ep=2), EXPERTS, expert_parallel=2)
    assert plain == State((288,) * 4, (288, 96, 0, 0))
    zero = state(Plan(dp=4, ep=2, sharding=Sharding(zero=1)), EXPERTS, expert_parallel=2)
    assert zero == State((160,) * 4, (160, 96, 64, 64))
    assert sum(plain.written) == sum(zero.written) == 384
