"""What is said of a model that fails: one line with the cause, the module, and the user's own line."""

import re
import sys

import pytest
import torch
from torch import nn

from mpsim.workload.refusal import cause_of
from mpsim.workload.update import OPTIMIZERS


def said(run, model=None):
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # any
        run()
    line = cause_of(caught.value, model)
    assert line.isprintable()
    return line


class Checked(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.body, self.how = nn.Linear(2, 2), how

    def forward(self, x):
        if self.how == "assert":
            assert x.sum() < 0
        if self.how == "bare":
            raise ValueError  # bare
        if self.how == "raise":
            raise ValueError(f"a {self.how}\nand a second line")
        return self.how(self.body(x))


def here(text):
    """Return file and line of this file's line with a text."""
    with open(__file__) as file:
        number = next(i for i, line in enumerate(file, 1) if text in line)
    return rf"test_refusal\.py:{number}"


def test_class_message_module_and_line():
    model = nn.Sequential(nn.Linear(2, 2), Checked("raise"))
    line = said(lambda: model(torch.ones(1, 2)), model)
    assert re.fullmatch(rf"ValueError: a raise, in 1 \(Checked\), at .*{here('raise ValueError(f')}", line)


def test_an_error_without_words_is_its_own_source():
    line = said(lambda: Checked("bare")(torch.ones(1, 2)))
    assert line.startswith("ValueError: raise ValueError  # bare, at ")


def test_the_innermost_module_and_the_line_that_called_it():
    model = Checked(lambda x: x)
    line = said(lambda: model(torch.ones(1, 3)), model)
    assert re.search(rf"cannot be multiplied .*, in body \(Linear\), at .*{here('return self.how(self.body')}", line)
    assert "micro-batch" not in line


def test_a_loss_is_named_by_its_line():
    def loss(out):
        return out.nothing  # the loss

    assert re.search(here("# the loss\n".strip()), said(lambda: loss(torch.ones(1))))


def test_the_line_of_a_library_that_the_model_is_from():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=10))
    line = said(lambda: model(input_ids=torch.tensor([[99]])), model)
    assert re.search(r"in model.embed_tokens \(Embedding\), at modeling_llama\.py:\d+$", line)


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.empty(10**15),
        lambda: bytearray(10**16),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ...")),
    ],
)
def test_only_out_of_memory_asks_for_a_smaller_microbatch(run):
    assert said(run).endswith("; try a smaller micro-batch")


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_sparse_gradients_name_the_optimizers_that_take_them(name):
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2))
    optimizer = OPTIMIZERS[name](model.parameters())
    model(torch.tensor([1])).sum().backward()
    line = said(optimizer.step, model)
    assert re.search(r"^(?!.*smaller micro-batch)(?=.*optimizer).*sparse", line)
    assert line.endswith("take an optimizer for sparse gradients (those of 0 are): sgd or sparse-adam")


@pytest.mark.parametrize("name", ["sgd", "sparse-adam", "momentum"])
def test_they_take_sparse_and_dense_gradients_and_move_nothing(name):
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2))
    before = [item.clone() for item in model.parameters()]
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(2):
        model(torch.tensor([1])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_values_of_fake_tensors_are_said_to_be_missing():
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = Checked("assert")
    with FakeTensorMode(allow_non_fake_inputs=True):
        line = said(lambda: model(torch.ones(1, 2)), model)
    assert re.search(r"the value of a tensor is asked for .*have none, in the model \(Checked\), at ", line)
    assert re.search(here("assert x.sum() < 0"), line)


def test_a_worker_of_a_loader_has_its_own_error_and_line():
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise KeyError("label")  # in the worker

    if sys.platform == "win32":
        pytest.skip("workers are forked")
    line = said(lambda: next(iter(torch.utils.data.DataLoader(Data(), num_workers=1))))
    assert line.startswith("KeyError: 'label', at ")
    assert re.search(here("# in the worker"), line)


def test_control_characters_and_pages_are_cut():
    line = said(lambda: (_ for _ in ()).throw(RuntimeError("\x1b[31mred\x1b[0m " + 1000 * "long ")))
    assert "\x1b" not in line
    assert len(line) < 450
