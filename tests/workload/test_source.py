"""What can be traced, and what is said of what cannot."""

import pytest
import torch

from mpsim.errors import MpsimError
from mpsim.workload.source import module_source, resolve_model


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
