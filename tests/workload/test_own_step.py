"""A training step of one's own and its loader."""

import pytest
import torch

from mpsim.errors import MpsimError
from mpsim.workload.own_step import step_source


def train(batch): ...


def test_a_data_loader():
    data = torch.utils.data.TensorDataset(torch.ones(10, 3), torch.arange(10))
    source = step_source(train, torch.utils.data.DataLoader(data, batch_size=4))
    assert (source.name, source.samples, len(source.batch)) == ("train", 4, 2)
    assert [item.shape[0] for item in source.batch_of(6)] == [6, 6]
    assert type(source.batch_of(6)) is type(source.batch)
    assert source.batch_of(4)[0] is source.batch[0]


def test_a_dict_and_a_generator():
    source = step_source(train, ({"x": torch.ones(n, 2)} for n in (3, 5)), name="mine")
    assert (source.name, source.samples) == ("mine", 3)
    assert source.batch_of(2)["x"].shape == (2, 2)


def test_what_no_tensor_says_is_asked_for():
    source = step_source(train, ["text"], microbatches=(8,))
    assert source.samples == 8
    with pytest.raises(MpsimError, match=r"nothing in the batch is of 8 samples"):
        source.batch_of(4)
    with pytest.raises(MpsimError, match=r"holds no tensor .* give microbatches=\(n,\)"):
        step_source(train, ["text"], microbatches=(4, 8))


def test_loaders_that_are_none():
    for wrong in (torch.ones(4, 2), {"x": torch.ones(4)}, "text", 3, torch.utils.data.TensorDataset(torch.ones(4))):
        with pytest.raises(MpsimError, match=rf"loader of train is a {type(wrong).__name__}, expected an iterable"):
            step_source(train, wrong)
    with pytest.raises(MpsimError, match="the loader of train has no batch"):
        step_source(train, [])
    with pytest.raises(MpsimError, match=r"holds no tensor"):
        step_source(train, [torch.ones(0, 3)])


def test_a_loader_that_fails_says_why():
    def batches():
        raise OSError("disk is gone")
        yield

    with pytest.raises(MpsimError, match=r"the loader of train failed: OSError: disk is gone, at .*test_own_step\.py:"):
        step_source(train, batches())
