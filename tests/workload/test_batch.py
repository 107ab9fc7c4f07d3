"""Batches nested in any way: how many samples they hold, more and fewer of them, and on which device they lie."""

import dataclasses
import types
from collections import OrderedDict, UserDict
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from mpsim.errors import MpsimError
from mpsim.workload.batch import resized, samples_of
from mpsim.workload.example import Example, on_device
from mpsim.workload.nested import map_tensors, tensors_in


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    scale: float = 2.0


class Plain:
    def __init__(self, x):
        self.x, self.me = x, self


CONTAINERS = {
    "tuple": lambda x: (x, 3),
    "list": lambda x: [None, x],
    "dict": lambda x: {"a": {"b": x}, "text": "t"},
    "ordered": lambda x: OrderedDict(a=x),
    "named tuple": lambda x: Pair(x, 1),
    "dataclass": lambda x: Frozen(x),
    "object": Plain,
    "namespace": lambda x: types.SimpleNamespace(x=[x]),
    "mapping": lambda x: UserDict(x=x),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_tensor_is_found_and_changed_in_any_container(name):
    x = torch.ones(4, 2)
    tree = CONTAINERS[name](x)
    assert tensors_in(tree) == [x]
    changed = map_tensors(lambda tensor: 3 * tensor, tree)
    assert type(changed) is type(tree)
    assert tensors_in(changed)[0].tolist() == (3 * x).tolist()
    assert tensors_in(tree)[0] is x
    assert map_tensors(lambda tensor: tensor, tree) is tree
    assert samples_of(tree) == 4 or name in ("tuple", "list")
    assert tensors_in(resized([tree, x], 4, 3)[0])[0].shape == (3, 2)


def test_batch_encodings_and_model_outputs():
    transformers = pytest.importorskip("transformers")
    x = torch.arange(4).reshape(2, 2)
    for tree in (transformers.BatchEncoding({"input_ids": x}), transformers.modeling_outputs.BaseModelOutput(x)):
        made = resized([tree], 2, 3)[0]
        assert type(made) is type(tree)
        assert tensors_in(made)[0].tolist() == [[0, 1], [2, 3], [0, 1]]


@given(st.integers(1, 6), st.integers(1, 14))
def test_row_i_is_row_i_modulo_samples(samples, size):
    x = torch.arange(samples * 2).reshape(samples, 2)
    assert resized([x], samples, size)[0].tolist() == [x[i % samples].tolist() for i in range(size)]


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_a_packed_sequence_has_more_rows(enforce_sorted):
    lengths = (3, 2) if enforce_sorted else (2, 3)
    packed = pack_sequence([torch.arange(n) for n in lengths], enforce_sorted=enforce_sorted)
    assert samples_of(packed) == 2
    more = resized([packed], 2, 3)[0]
    assert isinstance(more, PackedSequence)
    expected = [lengths[0], lengths[1], lengths[0]]
    assert [len(row) for row in unpack_sequence(more)] == (sorted(expected)[::-1] if enforce_sorted else expected)
    assert [len(row) for row in unpack_sequence(resized([packed], 2, 1)[0])] == [lengths[0]]


def test_a_list_with_one_item_a_sample_has_more_items():
    """As torchvision's detection models take them: images of unlike sizes and a dict of boxes for each."""
    images = [torch.ones(3, 8 + i, 8) for i in range(4)]
    targets = [{"boxes": torch.ones(i, 4)} for i in range(4)]
    assert samples_of(images) == 4
    made, labels = resized([images, targets], 4, 6)
    assert [image.shape[1] for image in made] == [8, 9, 10, 11, 8, 9]
    assert [label["boxes"].shape[0] for label in labels] == [0, 1, 2, 3, 0, 1]


def test_two_tensors_of_two_samples_are_not_one_a_sample():
    pair = (torch.ones(2, 3), torch.ones(2))
    assert samples_of(pair) == 2
    assert [len(item) for item in resized([pair], 2, 5)[0]] == [5, 5]


def test_feature_maps_in_a_list_have_one_batch():
    maps = [torch.ones(2, 8, 4, 4), torch.ones(2, 16, 2, 2), torch.ones(2, 32, 1, 1)]
    assert samples_of(maps) == 2
    assert [item.shape[0] for item in resized([maps], 2, 3)[0]] == [3, 3, 3]


def test_texts_follow_and_sizes_stay():
    made = resized([torch.ones(2), ["a", "b"], (7, 9), 2.0], 2, 3)
    assert made[1:] == [["a", "b", "a"], (7, 9), 2.0]


def test_what_is_asked_for_is_meant_where_a_tensor_has_as_many():
    positions, x = torch.arange(16), torch.ones(4, 16)
    assert samples_of(positions, x) == 16
    assert samples_of(positions, x, asked=4) == 4
    assert samples_of(positions, x, asked=8) == 16


def test_a_tensor_given_twice_stays_one():
    x = torch.ones(2)
    first, second = resized([x, {"same": x}], 2, 4)
    assert second["same"] is first


def test_order_in_memory_gradients_and_expanded_rows_are_kept():
    image = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    row = torch.arange(3.0).expand(2, 3)
    leaf = torch.ones(2, requires_grad=True)
    for size in (1, 5):
        made = resized([image, row, leaf], 2, size)
        assert made[0].is_contiguous(memory_format=torch.channels_last)
        assert made[0].untyped_storage().nbytes() == made[0].nbytes
        assert made[1].untyped_storage().nbytes() == row.untyped_storage().nbytes()
        assert made[2].is_leaf
        assert made[2].requires_grad


def test_sparse_rows():
    x = torch.eye(3).to_sparse()
    assert resized([x], 3, 4)[0].to_dense().tolist() == [*torch.eye(3).tolist(), [1.0, 0.0, 0.0]]


def test_nothing_of_the_right_length_is_refused():
    with pytest.raises(MpsimError, match=r"nothing in the batch is of 4 samples.*made 8.*factory"):
        resized([torch.ones(3), "text"], 4, 8)
    with pytest.raises(MpsimError, match=r"sparse_csr of 3 samples cannot be made 4"):
        resized([torch.eye(3).to_sparse_csr()], 3, 4)


def test_an_example_is_moved_with_its_target():
    x = torch.ones(2, 2)
    example = Example(model=torch.nn.Linear(2, 1), inputs=(Frozen(x),), keywords={"y": [x]}, target={"z": (x, 3)})
    moved = on_device(example, "meta")
    assert moved.inputs[0].x.device.type == moved.target["z"][0].device.type == "meta"
    assert moved.keywords["y"][0] is moved.inputs[0].x
    assert moved.target["z"][1] == 3
    same = on_device(Example(model=torch.nn.Linear(2, 1), inputs=(x,)), "cpu")
    assert same.inputs[0] is x


def test_what_moves_itself_is_moved():
    class Graph:
        __slots__ = ()
        place = "here"

        def to(self, device):
            Graph.place = device
            return self

    on_device(Example(model=torch.nn.Identity(), inputs=(Graph(),)), "cpu")
    assert Graph.place == "cpu"
