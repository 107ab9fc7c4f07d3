"""What can be traced, and what is said of what cannot."""

import pytest
import torch

from mpsim.errors import MpsimError
from mpsim.workload.example import Example
from mpsim.workload.nested import map_tensors
from mpsim.workload.source import arguments_of, factory_source, module_source, resolve_model, source_of
from mpsim.workload.trace import trace


def test_user_factory(tmp_path, monkeypatch):
    (tmp_path / "mine_for_tests.py").write_text(
        "import torch\n"
        "def factory(batch, width=2):\n"
        "    return torch.nn.Linear(width, 1), torch.ones(batch, width)\n"
        "def wrong(batch):\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    source = resolve_model("mine_for_tests:factory", {"width": 4})
    assert source.name == "mine_for_tests:factory[width=4]"
    assert source.build(3).inputs[0].shape == (3, 4)
    with pytest.raises(MpsimError, match="returned int, expected an Example"):
        resolve_model("mine_for_tests:wrong").build(1)
    with pytest.raises(MpsimError, match="no factory 'factry'; did you mean 'factory'"):
        resolve_model("mine_for_tests:factry")


def test_unknown_module():
    with pytest.raises(MpsimError, match="cannot import 'no_such_package'"):
        resolve_model("no_such_package:f")


def test_zoo_overrides_are_checked_at_once():
    with pytest.raises(MpsimError, match="n_layers"):
        resolve_model("gpt2", {"n_layers": 2})


def test_batch_is_sliced_and_repeated():
    x, mask = torch.arange(6.0).reshape(3, 2), torch.ones(5)
    source = module_source(torch.nn.Identity(), (x, mask), {"target": torch.arange(3)}, "id")
    small, large = source.build(2), source.build(7)
    assert small.inputs[0].tolist() == [[0, 1], [2, 3]]
    assert large.inputs[0].tolist() == x.repeat(3, 1)[:7].tolist()
    assert large.inputs[1] is mask
    assert large.target.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_keyword_batch():
    example = module_source(torch.nn.Identity(), {"input": torch.ones(2, 2)}, {}, "id").build(4)
    assert example.inputs == ()
    assert example.keywords["input"].shape == (4, 2)


@pytest.mark.parametrize(
    ("rest", "target", "has_loss"),
    [
        ("", None, False),
        (", {'kind': torch.ones(batch)}", {"kind": [1.0]}, False),
        (", torch.nn.MSELoss()", None, True),
        (", None, torch.nn.MSELoss()", None, True),
        (", [torch.ones(batch)], lambda out, t: out.sum()", [[1.0]], True),
    ],
)
def test_what_a_factory_may_return(rest, target, has_loss):
    factory = eval(f"lambda batch: (torch.nn.Linear(2, 1), torch.ones(batch, 2){rest})", {"torch": torch})
    example = factory_source(factory, None, "mine").build(1)
    found = map_tensors(lambda tensor: tensor.tolist(), example.target)
    assert (found, example.loss is not None) == (target, has_loss)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ((1, 2, 3, 4, 5), "returned a tuple of 5, expected an Example or"),
        ([torch.nn.Linear(1, 1), 2], "returned list, expected"),
        (("model", torch.ones(1)), "returned a str as model, expected a torch.nn.Module"),
        ((torch.nn.Linear(1, 1), torch.ones(1), None, 3), "loss is a int, expected a function"),
    ],
)
def test_what_a_factory_may_not_return(made, message):
    with pytest.raises(MpsimError, match=message):
        factory_source(lambda batch: made, None, "mine").build(1)


def test_a_loss_without_a_target_may_take_the_output_alone():
    for loss in (lambda out: out.sum(), lambda out, target: out.sum()):
        example = factory_source(lambda batch, loss=loss: (torch.nn.Identity(), torch.ones(2), loss), None, "f").build(
            1
        )
        assert example.loss(torch.ones(2), None) == 2


def test_an_example_takes_a_tuple():
    with pytest.raises(MpsimError, match=r"inputs of an Example is a Tensor, expected a tuple .* inputs=\(x,\)"):
        Example(model=torch.nn.Linear(1, 1), inputs=torch.ones(2, 1))


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (torch.nn.Linear, torch.ones(1, 1), r"model is the class Linear: give one made of it"),
        (torch.nn.Linear(1, 1), None, "Linear has no batch: give the arguments of its forward"),
        (torch.nn.Linear(1, 1), 4, r"batch \(int\) holds no tensor .* microbatches=\(n,\)"),
        (lambda batch: None, torch.ones(2), "batch is a Tensor: with a factory or a name give the number of samples"),
        (lambda batch: None, True, "batch is a bool"),
        ("gpt2", 0, "batch is 0: give the number of samples"),
        (3, None, "model is a int: give a torch.nn.Module, a factory, or a zoo name"),
    ],
)
def test_what_cannot_be_a_source(model, batch, message):
    with pytest.raises(MpsimError, match=message) as caught:
        source_of(model, batch, {}, None)
    assert "\n" not in str(caught.value)


def test_the_one_size_asked_for_says_which_dimension_is_the_batch():
    batch = (torch.arange(16), torch.ones(4, 16, 8))
    assert source_of(torch.nn.Identity(), batch, {}, None).default_batch == 16
    source = source_of(torch.nn.Identity(), batch, {}, None, 4)
    assert [item.shape[0] for item in source.build(2).inputs] == [16, 2]


def test_an_object_without_tensors_is_traced_at_the_size_asked_for():
    source = source_of(torch.nn.Identity(), object(), {}, None, 4)
    assert source.build(4).inputs == source.build(4).inputs
    with pytest.raises(MpsimError, match="nothing in the batch is of 4 samples, so that it cannot be made 8"):
        source.build(8)


def test_a_named_tuple_and_a_packed_sequence_are_one_argument():
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    assert arguments_of(packed) == ((packed,), {})


@pytest.mark.parametrize(
    ("text", "content", "message"),
    [
        ("broken_for_tests:f", "def f(:", r"importing .* failed: SyntaxError: .*, at broken_for_tests\.py:1"),
        ("raises_for_tests:f", "x = 1\n1 / 0", r"failed: ZeroDivisionError: .*, at raises_for_tests\.py:2"),
        ("exits_for_tests:f", "import sys; sys.exit(3)", r"ended the program \(3\): .* __name__ == '__main__'"),
        ("dotpy_for_tests.py:f", "", r"without \.py: dotpy_for_tests:f"),
        ("needs_for_tests:f", "import not_there_at_all", "no module named 'not_there_at_all'$"),
        (":f", "", "importing '' failed: ValueError"),
    ],
)
def test_modules_that_cannot_be_imported(tmp_path, monkeypatch, text, content, message):
    (tmp_path / f"{text.partition(':')[0].removesuffix('.py')}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MpsimError, match=message) as caught:
        resolve_model(text)
    assert "\n" not in str(caught.value)


def test_a_factory_that_ends_the_program_is_said_so():
    def leaves(batch):
        raise SystemExit(3)

    with pytest.raises(MpsimError, match="leaves cannot be built for 2 samples: it ends the program"):
        trace(leaves, 2)
