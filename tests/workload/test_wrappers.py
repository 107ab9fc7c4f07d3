"""What is taken off a wrapped model leaves its gradients, and the wrapped model itself, as they were."""

import pytest
import torch
from torch import distributed, nn

from mpsim.errors import MpsimError
from mpsim.workload.wrappers import eagerly, plain_name, unwrapped

X = torch.linspace(-1, 1, 8).reshape(2, 4)


@pytest.fixture
def one_rank():
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))


def inner(wrap):
    made = model()
    made[1] = wrap(made[1])
    return made


def check(wrapped, *words):
    """The unwrapped model has the plain one's names and gradients, and a note for each word."""
    before = repr(wrapped)
    plain, notes = unwrapped(wrapped)
    expected = model()
    for one in (plain, expected):
        with eagerly():
            one(X).pow(2).sum().backward()
    found, wanted = dict(plain.named_parameters()), dict(expected.named_parameters())
    assert list(found) == list(wanted)
    for name, parameter in wanted.items():
        assert type(found[name]) is nn.Parameter
        torch.testing.assert_close(found[name].grad, parameter.grad)
    assert repr(wrapped) == before
    assert len(notes) == len(words)
    for note, word in zip(notes, words, strict=True):
        assert note.startswith(word)


def test_a_plain_model_is_the_same_object():
    plain = model()
    assert unwrapped(plain) == (plain, ())


def test_compiled():
    check(torch.compile(model()), "torch.compile")
    check(inner(torch.compile), "torch.compile")
    in_place = model()
    in_place.compile()
    check(in_place, "torch.compile")


def test_data_parallel():
    check(nn.DataParallel(model()), "DataParallel")


def test_distributed_data_parallel(one_rank):
    wrap = nn.parallel.DistributedDataParallel
    check(wrap(model()), "DistributedDataParallel was taken off: its all-reduces are in the plan, not in the trace")
    check(inner(wrap), "DistributedDataParallel")
    check(wrap(torch.compile(model())), "DistributedDataParallel", "torch.compile")


@pytest.mark.parametrize("original", [True, False])
def test_fully_sharded_on_one_rank(one_rank, original):
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrap(module):
        return FullyShardedDataParallel(module, use_orig_params=original, device_id=torch.device("cpu"))

    check(wrap(inner(wrap)), "FullyShardedDataParallel")


def test_fully_shard_on_a_mesh_of_one(one_rank):
    from torch.distributed.fsdp import fully_shard

    made = model()
    fully_shard(made[1], mesh=one_rank)
    fully_shard(made, mesh=one_rank)
    check(made, "fully_shard")
    made(X)  # and left gathered
    check(made, "fully_shard")
    made(X).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_a_device_mesh_of_one(one_rank):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    check(
        parallelize_module(model(), one_rank, {"0": ColwiseParallel(), "1.1": RowwiseParallel()}),
        "a device mesh of one",
    )


def test_sharded_over_ranks_is_refused():
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (4,))
        made = torch.distributed.fsdp.fully_shard(model(), mesh=mesh)
        with pytest.raises(MpsimError, match=r"Linear are spread over 4 ranks: trace the model before it is wrapped"):
            unwrapped(made)
    finally:
        distributed.destroy_process_group()


def test_recompute_and_own_wrappers_stay():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    class Scaled(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return 2 * self.module(x)

    for kept in (inner(checkpoint_wrapper), Scaled(model())):
        assert unwrapped(kept) == (kept, ())


def test_a_tied_parameter_stays_one():
    made = inner(torch.compile)
    made[1]._orig_mod[1].weight = made[0].weight
    plain, _ = unwrapped(made)
    assert plain[1][1].weight is plain[0].weight is made[0].weight


def test_names_lose_what_wrappers_put_in():
    assert plain_name("_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.weight") == "blocks.0.weight"
    assert plain_name("module.module.weight") == "weight"
    assert plain_name("encoder.module.weight") == "encoder.module.weight"
    assert plain_name("my_module.weight") == "my_module.weight"
