"""Models of transformers' as they come, with the masks and labels that these have, shared by ranks of a sequence."""

from __future__ import annotations

import pytest

from mpsim import trace
from mpsim.errors import MpsimError
from mpsim.workload.split import split_text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mpsim.lowering.rescaling import roofline_of  # noqa: E402
from mpsim.workload import context_parallel  # noqa: E402
from mpsim.workload.example import Example  # noqa: E402
from mpsim.workload.tensor_parallel import local_shard  # noqa: E402

SIZES = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 48,
    "use_cache": False,
}


def model(name, **more):
    return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**SIZES, **more))


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Mixtral"])
@pytest.mark.parametrize("split", ["cp=2", "tp=2,sequence", "tp=2,cp=2,sequence"])
def test_tokens_that_are_their_own_labels(name, split):
    tokens = torch.randint(48, (2, 16))
    work = trace(
        model(name),
        {"input_ids": tokens, "labels": tokens},
        splits=(split,),
        analytical=roofline_of("H100-SXM5-80GB"),
    )
    axes = {one.axis for layer in work.layers for cost in layer.costs for one in cost.collectives}
    assert axes == {axis for axis in ("tp", "cp") if axis in split}
    (fed,) = (one for one in work.tensors if one.role == "input")
    ranks = split_text(split).cp  # who shares a sequence by tp is fed the whole of it
    assert fed.bytes(split_text(split)) * ranks == fed.bytes()


def test_a_model_keeps_its_attention():
    llama = model("Llama")
    tokens = torch.randint(48, (2, 16))
    mask = torch.ones(2, 16, dtype=torch.long)
    example = Example(model=llama, inputs=(tokens,), keywords={"attention_mask": mask})
    shard = local_shard(example, split_text("cp=2"))
    assert "masks of padding are left out" in shard.notes[0]
    assert llama.config._attn_implementation == "sdpa"
    assert shard.example.model(*shard.example.inputs, **shard.example.keywords).logits.shape == (2, 8, 48)


def test_a_mask_of_tokens_goes_with_their_sequence():
    tokens = torch.randint(48, (2, 16))
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[0, :3] = 0
    example = Example(model=model("Llama"), inputs=(tokens,), keywords={"attention_mask": mask})
    from mpsim.workload.found_plans import planned

    local = local_shard(planned(example)[0], split_text("tp=2,sequence")).example
    assert local.model(*local.inputs, **local.keywords).logits.shape == (2, 16, 48)


def test_a_checkpoint_runs_attention_again_as_it_ran(monkeypatch):
    """Keys are gathered in forward, when forward is run again, and in backward."""
    llama = model("Llama").train()
    llama.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.randint(48, (2, 16))
    example = Example(model=llama, inputs=(tokens,), keywords={"labels": tokens})
    shard = local_shard(example, split_text("cp=2"))
    assert [one.kind for one in shard.collectives].count("all_gather") == 3
    runs = []
    shared = context_parallel.ring_attention
    monkeypatch.setattr(
        context_parallel, "ring_attention", lambda *a, **k: runs.append(a[0].shape[2]) or shared(*a, **k)
    )
    shard.example.model(*shard.example.inputs, **shard.example.keywords).loss.backward()
    assert runs == [8, 8]


@pytest.mark.parametrize(("window", "said"), [(4, True), (16, False)])
def test_a_window_that_is_left_out_is_said(window, said):
    example = Example(model=model("Mistral", sliding_window=window), inputs=(torch.randint(48, (2, 16)),))
    notes = local_shard(example, split_text("cp=2")).notes
    assert ("so are windows of 4 tokens: attention is costed as if of all" in notes) == said


@pytest.mark.parametrize(
    ("name", "more", "split", "message"),
    [
        ("FalconH1", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}, "cp=2",
         "model.layers.0.mamba: a convolution over 8 tokens"),
        ("Bart", {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 4}, "tp=2,sequence",
         "model.decoder.layers.0.self_attn: an attention over 8 tokens"),
        ("GptOss", {"num_local_experts": 4, "head_dim": 8}, "tp=2,sequence",
         "model.layers.0.self_attn: an attention over 8 tokens"),
    ],
)  # fmt: skip
def test_models_whose_tokens_would_read_a_part_alone_are_refused(name, more, split, message):
    example = Example(model=model(name, **more), inputs=(torch.randint(48, (2, 16)),))
    with pytest.raises(MpsimError, match=message):
        local_shard(example, split_text(split))
