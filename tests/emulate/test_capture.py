"""Units run one after another are the model: same output, same loss, same gradients."""

import copy
import re

import pytest
import small_models as models
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils import _pytree as pytree

from mpsim.emulate.capture.cut import capture
from mpsim.emulate.capture.piece import run_step
from mpsim.errors import MpsimError
from mpsim.workload.example import Example, default_loss, flat_inputs


def _tokens(*shape):
    return torch.randint(0, 7, shape)


def _classes(output, target):
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def _inplace_chain():
    layers = [nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Dropout(0.0), nn.Linear(5, 5), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(5, 2))


CASES = {
    "functional": lambda: Example(
        model=models.Functional(), inputs=(torch.rand(3, 6),), target=torch.tensor([0, 1, 2]), loss=F.nll_loss
    ),
    "in-place": lambda: Example(model=_inplace_chain(), inputs=(torch.rand(3, 5),)),
    "resnet": lambda: Example(model=models.ResNet(), inputs=(torch.rand(3, 2, 6, 6),)),
    "unet": lambda: Example(model=models.SmallUNet(), inputs=(torch.rand(2, 1, 8, 8),)),
    "tied": lambda: Example(model=models.Tied(), inputs=(_tokens(2, 5),), target=_tokens(2, 5), loss=_classes),
    "shared": lambda: Example(model=models.Shared(), inputs=(torch.rand(3, 4),)),
    "nested": lambda: Example(
        model=models.Nested(),
        inputs=(torch.rand(3, 4),),
        keywords={"scale": torch.rand(3, 1)},
        loss=lambda output, _: output["sum"].square().mean() + output["parts"][1][1].mean(),
    ),
    "no gradient": lambda: Example(model=models.NoGradient(), inputs=(torch.rand(3, 4),)),
}


def check_equal(example, depth):
    """Compare loss, outputs, gradients and running statistics of the units with those of the model."""
    twin = copy.deepcopy(example.model)
    output = twin(*example.inputs, **example.keywords)
    loss = (example.loss or default_loss)(output, example.target)
    loss.backward()
    cut = capture(example, depth)
    feeds = dict(zip(cut.feeds, flat_inputs(example), strict=True))
    parameters = dict(example.model.named_parameters())
    values, _ = run_step(cut, feeds, parameters)
    torch.testing.assert_close(values[cut.loss], loss)
    expected = [item for item in pytree.tree_leaves(output) if isinstance(item, torch.Tensor)]
    for name, value in zip(cut.outputs, expected, strict=True):
        torch.testing.assert_close(values[name], value)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(parameters[name].grad, parameter.grad, msg=name)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(example.model.get_buffer(name), buffer)
    return cut


@pytest.mark.parametrize("depth", ["auto", 0, 1, 2, 9])
@pytest.mark.parametrize("case", CASES)
def test_units_compute_what_the_model_computes(case, depth):
    cut = check_equal(CASES[case](), depth)
    made = set(cut.feeds)
    for unit in cut.units:
        assert set(unit.inputs) <= made, f"{unit.name} reads what is not made yet"
        made.update(unit.outputs)
    assert cut.loss in cut.units[-1].outputs


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("functional", ["fc1", "fc2"]),
        ("in-place", ["0", "3", "5"]),
        ("resnet", ["stem.0", "layer.0", "layer.1", "head"]),
        ("unet", ["down1", "down2", "middle", "up2", "up1"]),
        ("tied", ["embed", "blocks.0", "blocks.1", "head"]),
        ("shared", ["cell", "cell@2", "cell@3", "head"]),
        ("nested", ["split", "left", "right"]),
    ],
)
def test_automatic_depth_gives_the_units_that_one_would_name(case, names):
    assert [unit.name for unit in capture(CASES[case]()).units] == names


def test_depth_counts_module_levels():
    example = CASES["resnet"]()
    names = {depth: [unit.name for unit in capture(example, depth).units] for depth in (0, 1, 2, 3)}
    assert names[0] == ["ResNet"]
    assert names[1] == ["stem", "layer", "head"]
    assert names[2] == ["stem.0", "layer.0", "layer.1", "head"]
    assert names[3] == ["stem.0", "layer.0.conv", "layer.0.norm", "layer.1.conv", "layer.1.norm", "head"]


def test_in_place_across_units_is_made_functional_and_stays_inside_them():
    fine = capture(CASES["resnet"](), 3)
    operations = [node.target for node in fine.units[2].module.graph.nodes]
    assert torch.ops.aten.relu_.default in operations  # `out += x` and the ReLU change the norm's own output


def test_an_activation_that_another_layer_reads_is_not_changed_in_place():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x + self.by

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), Shift(), nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x)
            z = self.b(y)
            return self.c(y.relu_()) + z

    cut = check_equal(Example(model=Both(), inputs=(torch.randn(3, 4),)), "auto")
    nodes = [node.target for unit in cut.units for node in unit.module.graph.nodes]
    assert torch.ops.aten.relu_.default not in nodes
    assert torch.ops.aten.relu.default in nodes


def test_a_tensor_with_two_consumers_is_one_value():
    cut = capture(CASES["unet"]())
    readers = {
        name: [unit.name for unit in cut.units if name in unit.inputs] for unit in cut.units for name in unit.outputs
    }
    assert ["middle", "up2"] not in readers.values()  # the pooled tensor and the skip are two tensors
    assert sorted(map(len, readers.values())) == [0, 0, 1, 1, 1, 1, 1, 1]


def test_a_mask_that_is_made_before_the_first_layer_belongs_to_it():
    cut = capture(CASES["tied"]())
    readers = {name: [unit.name for unit in cut.units if name in unit.inputs] for name in cut.units[0].outputs}
    assert list(readers.values()) == [["blocks.0", "blocks.1"], ["blocks.0"]]  # the mask, the activation


def test_tied_parameter_has_one_name():
    cut = capture(CASES["tied"]())
    assert cut.units[0].parameters == cut.units[-1].parameters == ("embed.weight",)


def test_one_tensor_given_as_input_and_label_makes_two_feeds():
    tokens = _tokens(2, 5)
    cut = capture(Example(model=models.Tied(), inputs=(tokens,), target=tokens, loss=_classes))
    assert cut.feeds == ("input", "target")
    assert cut.units[0].inputs == ("input",)
    assert "target" in cut.units[-1].inputs


def test_feeds_are_named_after_keywords():
    cut = capture(CASES["nested"]())
    assert cut.feeds == ("input", "scale", "")  # the last is the target that there is not


def test_value_dependent_forward_is_refused_in_one_line_with_its_place():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else x

    model = nn.Sequential(nn.Linear(2, 2), Branch())
    with pytest.raises(MpsimError) as caught:
        capture(Example(model=model, inputs=(torch.ones(1, 2),)))
    line = r"test_capture.py:\d+ \(`return self.fc\(x\) if x.sum\(\) > 0 else x`\)"
    cause = "the path that forward takes depends on the values of tensors, and a graph holds one path for all batches"
    assert re.fullmatch(f"Sequential cannot be exported, at {line}: {cause}", str(caught.value))


@pytest.mark.parametrize("depth", [-1, "blocks", 1.5])
def test_unknown_depth(depth):
    with pytest.raises(MpsimError, match="unknown depth"):
        capture(CASES["functional"](), depth)


def test_model_without_parameters_has_no_layers():
    with pytest.raises(MpsimError, match="no parameters"):
        capture(Example(model=nn.Sequential(nn.ReLU()), inputs=(torch.ones(1, 2, requires_grad=True),)))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [True, False])
def test_transformers_gpt2_with_its_own_output_class(labels):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=8, n_head=2, vocab_size=7, n_positions=8, use_cache=False, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    tokens = _tokens(2, 6)
    keywords = {"input_ids": tokens} | ({"labels": tokens} if labels else {})
    example = Example(
        model=transformers.GPT2LMHeadModel(config).train(), inputs=(), keywords=keywords,
        loss=None if labels else lambda output, _: output.logits.mean(),
    )  # fmt: skip
    cut = check_gradients(example)
    names = [unit.name for unit in cut.units]
    assert names[2:4] == ["transformer.h.0", "transformer.h.1"]
    assert cut.target == (("labels",) if labels else ())
    crossing = [name for name in cut.units[2].outputs if name in cut.units[3].inputs]
    assert len(crossing) == 1  # no mask: attention is told that it is causal


@pytest.mark.slow
def test_transformers_t5_cross_edges():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=7, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, dropout_rate=0.0, use_cache=False,
        decoder_start_token_id=0,
    )  # fmt: skip
    example = Example(
        model=transformers.T5ForConditionalGeneration(config).train(), inputs=(),
        keywords={"input_ids": _tokens(2, 5), "decoder_input_ids": _tokens(2, 4)},
        loss=lambda output, _: output.logits.mean(),
    )  # fmt: skip
    cut = check_gradients(example)
    encoded = next(unit for unit in cut.units if unit.name == "encoder.final_layer_norm").outputs[0]
    readers = [unit.name for unit in cut.units if encoded in unit.inputs]
    assert readers == ["decoder.block.0", "decoder.block.1"]


def check_gradients(example):
    """Compare loss and gradients only: not every output of these is a tensor that a layer makes."""
    twin = copy.deepcopy(example.model)
    loss = (example.loss or default_loss)(twin(**example.keywords), None)
    loss.backward()
    cut = capture(example)
    parameters = dict(example.model.named_parameters())
    feeds = dict(zip(cut.feeds, flat_inputs(example), strict=True))
    values, _ = run_step(cut, {name: value for name, value in feeds.items() if name}, parameters)
    torch.testing.assert_close(values[cut.loss], loss)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(parameters[name].grad, parameter.grad, msg=name)
    return cut
