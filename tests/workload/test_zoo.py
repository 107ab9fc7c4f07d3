"""The zoo against published sizes, and each model through what a trace asks of it."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys

import pytest
from zoo_sizes import SMALL

from mpsim.errors import MpsimError
from mpsim.workload import zoo

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# Published counts: torchvision's model table (vgg16, resnet50, vit_b_16); LeCun 1998 in the 6C5-16C5-120-84-10 form;
# Ronneberger 2015; the model cards of openai-community/gpt2, google-t5/t5-small and meta-llama.
PUBLISHED = {
    "mnist-mlp": 242_762,
    "lenet5": 61_706,
    "vgg16": 138_357_544,
    "resnet50": 25_557_032,
    "unet": 31_030_658,
    "gpt2": 124_439_808,
    "vit-b16": 86_567_656,
    "t5-small": 60_506_624,
    "llama-1b": 1_235_814_400,
    "llama-7b": 6_738_415_616,
    "llama-8b": 8_030_261_248,
    "llama-13b": 13_015_864_320,
    "llama-70b": 68_976_648_192,
    "llama-405b": 405_853_388_800,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "gpt2-xl": 1_557_611_200,
    "gpt3-175b": 174_604_259_328,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
}


def count(example):
    return sum(parameter.numel() for parameter in example.model.parameters())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_stored_parameters_are_those_of_the_model(name):
    with torch.device("meta"):
        assert count(zoo.get(name).build(1)) == zoo.get(name).parameters


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters_are_the_published_ones(name, parameters):
    assert zoo.get(name).parameters == parameters


def test_dlrm_is_the_one_of_540_million_parameters():
    """As https://arxiv.org/abs/1906.00091 says of Criteo's data: 33,762,577 rows of 16 numbers, and the perceptrons."""
    rows = zoo.get("dlrm").sizes["rows"]
    assert (len(rows), sum(rows)) == (26, 33_762_577)
    assert zoo.get("dlrm").parameters // 1_000_000 == 540


def test_a_real_model_has_as_many_parameters_as_one_without_storage():
    with torch.device("meta"):
        expected = count(zoo.get("llama").build(1, **SMALL["llama"]))
    assert count(zoo.get("llama").build(1, **SMALL["llama"])) == expected


def test_mnist_mlp_gradients():
    example = zoo.get("mnist-mlp").build(4)
    example.loss(example.model(*example.inputs), example.target).backward()
    gradients = [
        sum(p.grad.numel() * p.grad.element_size() for p in layer.parameters()) for layer in example.model.children()
    ]
    assert gradients == [803_840, 131_584, 33_024, 2_600]
    assert sum(gradients) == 971_048
    assert example.dataset_samples == 60_000
    assert zoo.get("mnist-mlp").default_batch == 8192


@pytest.mark.parametrize(("name", "sizes"), SMALL.items())
def test_every_parameter_gets_a_gradient(name, sizes):
    example = zoo.get(name).build(2, **sizes)
    assert example.model.training
    loss = example.loss(example.model(*example.inputs), example.target)
    assert loss.dim() == 0
    loss.backward()
    assert [name for name, p in example.model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("name", "sizes"), SMALL.items())
def test_every_model_exports_and_the_export_computes_the_same(name, sizes):
    example = zoo.get(name).build(2, **sizes)
    exported = torch.export.export(copy.deepcopy(example.model), example.inputs, strict=False).module()
    torch.testing.assert_close(exported(*example.inputs), example.model(*example.inputs))


@pytest.mark.parametrize(("name", "sizes"), SMALL.items())
def test_a_forward_is_deterministic(name, sizes):
    example = zoo.get(name).build(2, **sizes)
    assert torch.equal(example.model(*example.inputs), example.model(*example.inputs))


@pytest.mark.parametrize(("name", "sizes"), SMALL.items())
def test_every_model_builds_and_runs_on_fake_tensors(name, sizes):
    from torch._subclasses.fake_tensor import FakeTensor

    from mpsim.workload.shapes import ShapesMode

    with ShapesMode():
        example = zoo.get(name).build(2, **sizes)
        example.loss(example.model(*example.inputs), example.target).backward()
    assert all(isinstance(p, FakeTensor) for p in example.model.parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert-base", "BertForMaskedLM"),
        ("vit-b16", "ViTForImageClassification"),
        ("t5-small", "T5ForConditionalGeneration"),
        ("llama", "LlamaForCausalLM"),
        ("qwen2.5", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("qwen3-30b-a3b", "Qwen3MoeForCausalLM"),
        ("mixtral", "MixtralForCausalLM"),
        ("deepseek", "DeepseekV3ForCausalLM"),
    ],
)
def test_attention_without_masks_is_that_of_transformers(name, kind):
    """The same weights in transformers' own class with its eager attention, which adds masks, and its eager experts."""
    import transformers

    example = zoo.get(name).build(2, **SMALL[name])
    config = copy.deepcopy(example.model.config)
    config._attn_implementation = config._experts_implementation = "eager"
    reference = getattr(transformers, kind)(config)
    reference.load_state_dict(example.model.state_dict())
    names = ("pixel_values",) if name == "vit-b16" else ("input_ids", "decoder_input_ids")
    output = reference(**dict(zip(names, example.inputs, strict=False))).logits
    torch.testing.assert_close(example.model(*example.inputs), output)


def test_gpt2_with_linear_layers_is_that_of_transformers():
    import transformers

    example = zoo.get("gpt2").build(2, **SMALL["gpt2"])
    config = copy.deepcopy(example.model.config)
    config._attn_implementation = "eager"
    reference = transformers.GPT2LMHeadModel(config)
    fused = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {name: v.t() if name.endswith(fused) else v for name, v in example.model.state_dict().items()}
    reference.load_state_dict(state)
    torch.testing.assert_close(example.model(*example.inputs), reference(*example.inputs).logits)
    assert example.model.lm_head.weight is example.model.transformer.wte.weight


def test_a_decoder_sees_no_later_token():
    example = zoo.get("llama").build(1, **SMALL["llama"])
    tokens = example.inputs[0].clone()
    before = example.model(tokens)
    tokens[0, -1] = (tokens[0, -1] + 1) % 50
    torch.testing.assert_close(example.model(tokens)[0, :-1], before[0, :-1])


def test_deepseek_v3_counts_as_published_with_the_biases_of_its_routers():
    with torch.device("meta"):
        model = zoo.get("deepseek-v3").build(1).model
    biases = sum(value.numel() for name, value in model.named_buffers() if name.endswith("e_score_correction_bias"))
    assert biases == 58 * 256
    assert zoo.get("deepseek-v3").parameters + biases == 671_026_419_200


@pytest.mark.parametrize("name", ["mixtral", "qwen3-30b-a3b", "deepseek"])
def test_a_token_costs_the_experts_it_chooses(name):
    """FLOPs of the experts, forward and twice backward, real and fake: those of top_k of them for each token."""
    from mpsim.workload.roofline import Roofline
    from mpsim.workload.shapes import ShapesMode

    sizes = SMALL[name]
    width = sizes.get("expert_ffn", sizes["ffn"])
    for context in (contextlib.nullcontext(), ShapesMode()):
        with context:
            experts = next(m for m in zoo.get(name).build(1, **sizes).model.modules() if hasattr(m, "gate_up_proj"))
            tokens = torch.rand(24, 32, requires_grad=True)
            chosen, shares = torch.rand(24, experts.num_experts).topk(sizes["top_k"])[::-1]
            with Roofline() as roofline:
                experts(tokens, chosen, shares.requires_grad_()).sum().backward()
        assert roofline.uncounted == {}
        assert roofline.flops == 3 * 2 * 24 * sizes["top_k"] * 3 * 32 * width


def test_experts_multiply_in_the_type_of_autocast():
    model = zoo.get("mixtral").build(1, **SMALL["mixtral"]).model
    experts = model.model.layers[0].mlp.experts
    tokens, chosen, shares = torch.rand(8, 32), torch.randint(4, (8, 2)), torch.rand(8, 2)
    whole = experts(tokens, chosen, shares)
    with torch.autocast("cpu", torch.bfloat16):
        half = experts(tokens, chosen, shares)
    assert whole.dtype == half.dtype == torch.float32
    assert not torch.equal(whole, half)
    torch.testing.assert_close(whole, half, rtol=0.02, atol=0.02 * float(whole.detach().abs().max()))


def test_dlrm_is_the_sum_of_rows_and_products_by_hand():
    model = zoo.get("dlrm").build(1, rows=(3, 2), features=2, dense=1, bottom=1, top=1, pooling=2).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.tables[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    # bottom: 1 → 1·1 + 1 = 2 → [3, 3]; tables: rows 0 + 2 = [6, 8], rows 0 + 1 = [2, 2]
    # products: 3·6 + 3·8 = 42, 3·2 + 3·2 = 12, 6·2 + 8·2 = 28; top: 3 + 3 + 42 + 12 + 28 + 1 = 89 → 90
    assert model(torch.ones(1, 1), torch.tensor([[[0, 2], [0, 1]]])).tolist() == [90.0]


def test_listing_needs_no_torch():
    code = (
        "import sys; from mpsim.workload import zoo; rows = zoo.list_models();"
        "assert len(rows) > 10 and rows[0]['sizes']; bad = {'torch', 'transformers'} & set(sys.modules); assert not bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_llama_presets_and_single_sizes():
    llama = zoo.get("llama")
    assert llama.resolve({"size": "7b"})["hidden"] == 4096
    assert llama.resolve({"size": "7B", "n_layer": 2})["n_layer"] == 2
    assert llama.resolve({"size": "7B", "n_layer": 2})["ffn"] == 11_008
    assert zoo.get("llama-13b").resolve({})["n_layer"] == 40
    with torch.device("meta"):
        assert count(llama.build(1, size="8B")) == 8_030_261_248


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("gpt2", {"n_layers": 4}, "gpt2 has no size 'n_layers'; did you mean 'n_layer'?"),
        ("gpt2", {"n_layer": "four"}, "gpt2: n_layer is 'four', expected a whole number such as 12"),
        ("gpt2", {"n_layer": 2.5}, "gpt2: n_layer is 2.5, expected a whole number such as 12"),
        ("gpt2", {"n_layer": 0}, "gpt2: n_layer is 0, expected 1 or more"),
        ("gpt2", {"hidden": 100}, "gpt2: hidden 100 does not divide by n_head 12"),
        ("gpt2", {"seq": 2048}, "gpt2: seq 2048 is longer than positions 1024: raise positions too"),
        ("llama", {"size": "7G"}, "llama has no preset '7G'; known: 110M, 13B"),
        ("llama", {"n_kv_head": 4}, "llama: n_head 6 does not divide by n_kv_head 4"),
        ("vit-b16", {"image": 100}, "vit-b16: image 100 does not divide by patch 16"),
        ("unet", {"image": 100}, "unet: image 100 cannot be halved 4 times: give a multiple of 16"),
        ("vgg16", {"image": 16}, "vgg16: image 16 is smaller than 32"),
        ("mixtral", {"top_k": 9}, "mixtral: top_k 9 is more than n_expert 8: give 8 or fewer"),
        ("deepseek", {"n_group": 3}, "deepseek: n_expert 16 does not make n_group 3 equal groups of 2 or more"),
        ("deepseek", {"top_k": 9}, "deepseek: top_group 2 of n_group 4 leaves 8 experts for top_k 9"),
        ("qwen3", {"n_kv_head": 3}, "qwen3: n_head 16 does not divide by n_kv_head 3"),
        ("dlrm", {"rows": 100}, "dlrm: rows 100 is one number: give the rows of two tables or more"),
        ("mnist-mlp", {"widths": 784}, "mnist-mlp: widths 784 is one number"),
        ("mnist-mlp", {"widths": "784x10"}, "expected whole numbers with commas between such as 784,256,128,64,10"),
    ],
)
def test_bad_sizes(name, overrides, message):
    with pytest.raises(MpsimError) as error:
        zoo.get(name).build(1, **overrides)
    assert message in str(error.value)


def test_bad_batch_and_name():
    with pytest.raises(MpsimError, match="mnist-mlp: batch is 0, expected 1 or more"):
        zoo.get("mnist-mlp").build(0)
    with pytest.raises(MpsimError, match=r"unknown model .resnet5.; did you mean .resnet50.\?"):
        zoo.get("resnet5")


@pytest.mark.parametrize("text", ["n_layer", "=4", "n_layer="])
def test_an_override_needs_a_name_and_a_value(text):
    with pytest.raises(MpsimError, match="write NAME=VALUE"):
        zoo.parse_overrides([text])


def test_overrides():
    assert zoo.parse_overrides(["a=1", "b=2.5", "c=x", "d=true", "e=1,2"]) == {
        "a": 1, "b": 2.5, "c": "x", "d": True, "e": (1, 2),
    }  # fmt: skip
    with pytest.raises(MpsimError, match="'a' is set twice: 1 and 2"):
        zoo.parse_overrides(["a=1", "a=2"])
