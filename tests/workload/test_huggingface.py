"""Models of transformers from a configuration alone."""

import json

import pytest
import torch

from mpsim.errors import MpsimError
from mpsim.workload.source import resolve_model, source_of

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 32}
BOTH = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "vocab_size": 50,
}
SOUND = {**SIZES, "conv_dim": (16,), "conv_stride": (160,), "conv_kernel": (320,), "num_feat_extract_layers": 1}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return what writes a configuration into a folder here and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(config, name="tiny", **fields):
        (tmp_path / name).mkdir(exist_ok=True)
        whole = config if isinstance(config, dict) else config.to_dict()
        (tmp_path / name / "config.json").write_text(json.dumps(whole | fields))
        return name

    return write


def built(text, batch=2, **overrides):
    return resolve_model(f"hf:{text}", overrides).build(batch)


def shapes(example):
    return {name: tuple(value.shape) for name, value in example.keywords.items() if torch.is_tensor(value)}


@pytest.mark.parametrize(
    ("kind", "config", "sizes", "expected"),
    [
        ("LlamaForCausalLM", "LlamaConfig", TEXT, {"input_ids": (2, 32), "labels": (2, 32)}),
        ("BertForSequenceClassification", "BertConfig", TEXT, {"input_ids": (2, 32), "labels": (2,)}),
        ("BertForTokenClassification", "BertConfig", TEXT, {"input_ids": (2, 32), "labels": (2, 32)}),
        ("BertForMultipleChoice", "BertConfig", TEXT, {"input_ids": (2, 2, 32), "labels": (2,)}),
        (
            "BertForQuestionAnswering",
            "BertConfig",
            TEXT,
            {"input_ids": (2, 32), "start_positions": (2,), "end_positions": (2,)},
        ),
        (
            "BertForPreTraining",
            "BertConfig",
            TEXT,
            {"input_ids": (2, 32), "labels": (2, 32), "next_sentence_label": (2,)},
        ),
        (
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            {
                **BOTH,
                **SPECIAL,
                "num_mel_bins": 8,
                "max_source_positions": 10,
                "max_target_positions": 8,
                "suppress_tokens": None,
                "begin_suppress_tokens": None,
            },
            {"input_features": (2, 8, 20), "labels": (2, 8)},
        ),
        (
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            {**SOUND, "vocab_size": 20},
            {"input_values": (2, 16000), "labels": (2, 4)},
        ),
        (
            "ViTForImageClassification",
            "ViTConfig",
            {**SIZES, "image_size": 8, "patch_size": 4, "dtype": "bfloat16"},
            {"pixel_values": (2, 3, 8, 8), "labels": (2,)},
        ),
    ],
)
def test_a_batch_fits_and_gives_a_loss(folder, kind, config, sizes, expected):
    example = built(folder(getattr(transformers, config)(**sizes), architectures=[kind]))
    assert type(example.model).__name__ == kind
    assert shapes(example) == expected
    example.model(**example.keywords).loss.backward()


@pytest.mark.parametrize(("config", "kind"), [("LlamaConfig", "LlamaForCausalLM"), ("T5Config", None)])
def test_without_a_class_it_is_a_language_model(folder, config, kind):
    fields = {"model_type": "llama", **TEXT} if kind else {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16}
    example = built(folder(fields), **({} if kind else {"num_layers": 1, "num_heads": 2, "vocab_size": 50}))
    assert type(example.model).__name__ == (kind or "T5ForConditionalGeneration")


def test_fields_and_length_are_set(folder):
    example = built(folder(transformers.Qwen3Config(**TEXT)), seq=8, num_hidden_layers=2)
    assert len(example.model.model.layers) == 2
    assert shapes(example)["input_ids"] == (2, 8)
    example = built(folder(transformers.GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=9)), num_hidden_layers=1)
    assert len(example.model.transformer.h) == 1


def test_a_part_of_a_configuration(folder):
    config = transformers.CLIPConfig(
        text_config={**TEXT, **SPECIAL}, vision_config={**SIZES, "image_size": 8, "patch_size": 4}
    )
    example = built(folder(config, architectures=["CLIPModel"]), **{"vision_config.num_hidden_layers": 1})
    assert len(example.model.vision_model.encoder.layers) == 1
    assert shapes(example) == {"input_ids": (2, 32), "pixel_values": (2, 3, 8, 8)}
    assert example.model(**example.keywords).loss is not None


def test_no_token_is_special(folder):
    config = transformers.LlamaConfig(**TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=[2, 49])
    ids = built(folder(config), batch=64).keywords["input_ids"]
    assert set(ids.unique().tolist()) == set(range(50)) - {0, 1, 2, 49}


def test_names(folder):
    folder(transformers.LlamaConfig(**TEXT), name="Llama-Tiny")
    for text in ("hf:Llama-Tiny", "hf:Llama-Tiny/", "hf:./Llama-Tiny/config.json"):
        assert resolve_model(text).name == "Llama-Tiny"
    assert resolve_model("hf:Llama-Tiny", {"seq": 8}).name == "Llama-Tiny[seq=8]"


def test_a_module_called_hf_comes_first(folder, tmp_path, monkeypatch):
    folder(transformers.LlamaConfig(**TEXT))
    (tmp_path / "hf.py").write_text(
        "import torch\ndef own(batch):\n    return torch.nn.Linear(2, 1), torch.ones(batch, 2)"
    )
    import sys

    monkeypatch.delitem(sys.modules, "hf", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(resolve_model("hf:own").build(1).model).__name__ == "Linear"
    assert type(built("tiny").model).__name__ == "LlamaForCausalLM"
    monkeypatch.delitem(sys.modules, "hf", raising=False)


def test_a_configuration_or_a_model_as_a_value():
    config = transformers.LlamaConfig(**TEXT)
    assert source_of(config, None, {}, None).name == "llama"
    model = transformers.LlamaForCausalLM(config)
    source = source_of(model, 3, {}, None)
    assert (source.default_batch, source.name) == (3, "LlamaForCausalLM")
    assert source.build(2).model is model
    batch = {"input_ids": torch.ones(5, 4, dtype=torch.long)}
    assert source_of(model, batch, {}, None).default_batch == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta-llama/Llama-3-8B", "nothing is fetched from the hub: download the model's config.json"),
        (".", "holds no config.json"),
        ("", "no folder or file ''"),
        ("broken.json", "is no JSON"),
        ("list.json", "names no model_type"),
        ("unknown.json", "no model_type 'lama'; did you mean 'llama'?"),
        ("own.json", r"its code is its own \(auto_map\): give a factory"),
        ("many.json", "num_hidden_layers is 100,000,000, expected at most 10,000"),
        ("class.json", "no model 'LlamaForCausal'"),
        ("notamodel.json", "no model 'LlamaConfig'"),
        ("wrong.json", "refused by transformers: TypeError: Field 'hidden_size' expected int"),
    ],
)
def test_what_is_no_configuration(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "broken": "{",
        "list": "[]",
        "unknown": '{"model_type": "lama"}',
        "own": '{"model_type": "lama", "auto_map": {}}',
        "many": '{"model_type": "llama", "num_hidden_layers": 100000000}',
        "class": '{"model_type": "llama", "architectures": ["LlamaForCausal"]}',
        "notamodel": '{"model_type": "llama", "architectures": ["LlamaConfig"]}',
        "wrong": '{"model_type": "llama", "hidden_size": "wide"}',
    }.items():
        (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(MpsimError, match=message) as caught:
        resolve_model(f"hf:{text}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_layers": 2}, "no field 'num_layers'; did you mean 'num_hidden_layers'"),
        ({"text_config.hidden_size": 2}, "no field 'text_config.hidden_size'"),
        ({"num_attention_heads": 3}, "refused by transformers: ValueError: The hidden size"),
        ({"seq": 0}, "seq is 0, expected a whole number"),
        ({"seq": "long"}, "seq is 'long', expected a whole number"),
        ({"seq": 64}, "seq is 64, LlamaForCausalLM has positions for 32: set max_position_embeddings=64"),
    ],
)
def test_overrides_that_do_not_fit(folder, overrides, message):
    with pytest.raises(MpsimError, match=message):
        built(folder(transformers.LlamaConfig(**TEXT)), **overrides)


def test_an_input_that_is_not_known(folder):
    config = transformers.TimeSeriesTransformerConfig(prediction_length=2)
    with pytest.raises(MpsimError, match="whose input is 'past_values': give a factory"):
        built(folder(config, architectures=["TimeSeriesTransformerForPrediction"]))
