"""Model classes of transformers at tiny sizes, as their users make them: by configuration, random weights.

Nothing is switched off for the tracer's sake: a decoder's `use_cache` is what its configuration has.
"""

from __future__ import annotations

import torch

from .plain import Case

WORDS = 500
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "vocab_size": WORDS, "max_position_embeddings": 64}
BOTH = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": WORDS,
}


def ids(batch, length=32):
    return torch.randint(5, WORDS, (batch, length))


def like_ids(batch, length=32):
    rows = ids(batch, length)
    return {"input_ids": rows, "labels": rows.clone()}


def pixels(size, frames=()):
    return lambda batch: {
        "pixel_values": torch.randn(batch, *frames, 3, size, size),
        "labels": torch.zeros(batch).long(),
    }


def of(model, config, inputs=like_ids, then=None, **sizes):
    """A factory: `model` of transformers from `config` with `sizes`; `then` is done to it."""

    def make(batch):
        import transformers

        kind = getattr(transformers, model)
        made = getattr(kind, "from_config", kind)(getattr(transformers, config)(**sizes))
        if then:
            made = then(made)
        return made, inputs(batch)

    return make


def decoder(config, **sizes):
    return of("AutoModelForCausalLM", config, **sizes)


def checkpointed(model):
    model.gradient_checkpointing_enable()
    return model


def padded(batch):
    mask = torch.ones(batch, 32, dtype=torch.long)
    mask[:, :5] = 0
    return {**like_ids(batch), "attention_mask": mask}


def whole(batch):
    return {**like_ids(batch), "attention_mask": torch.ones(batch, 32, dtype=torch.long)}


def classes(batch):
    return {
        "input_ids": ids(batch),
        "attention_mask": torch.ones(batch, 32).long(),
        "labels": torch.zeros(batch).long(),
    }


def translated(batch):
    return {"input_ids": ids(batch), "labels": ids(batch, 16)}


def clip(batch):
    import transformers

    text = {
        **SIZES,
        "vocab_size": WORDS,
        "max_position_embeddings": 32,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**SIZES, "image_size": 32, "patch_size": 8}, projection_dim=32
    )
    inputs = {"input_ids": ids(batch, 16), "pixel_values": torch.randn(batch, 3, 32, 32), "return_loss": True}
    return transformers.CLIPModel(config), inputs


def detr(batch):
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    sizes = {name: size for name, size in BOTH.items() if name != "vocab_size"}
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=10,
        num_labels=4,
        **sizes,
    )
    return transformers.DetrForObjectDetection(config), {"pixel_values": torch.randn(batch, 3, 64, 64)}


GROUPED = {**TEXT, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 16}
GPT2 = {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": WORDS,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPEECH = {
    **SIZES,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "vocab_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


TRANSFORMERS = {
    # Decoders: their output holds a cache of keys and values unless use_cache is off
    "llama": Case(decoder("LlamaConfig", **GROUPED)),
    "llama padded": Case(of("LlamaForCausalLM", "LlamaConfig", padded, **GROUPED)),
    "mistral": Case(decoder("MistralConfig", **GROUPED)),
    "olmo2": Case(decoder("Olmo2Config", **GROUPED)),
    "qwen3": Case(decoder("Qwen3Config", **HEADS)),
    "gemma2": Case(decoder("Gemma2Config", **HEADS)),
    "phi": Case(decoder("PhiConfig", **TEXT)),
    "gpt_neox": Case(decoder("GPTNeoXConfig", **TEXT)),
    "falcon": Case(decoder("FalconConfig", **{**SIZES, "vocab_size": WORDS})),
    "opt": Case(decoder("OPTConfig", **{**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64})),
    "gptj": Case(decoder("GPTJConfig", **GPT2, rotary_dim=8)),
    "gpt2": Case(of("GPT2LMHeadModel", "GPT2Config", **GPT2)),
    "gpt2 without labels": Case(of("GPT2LMHeadModel", "GPT2Config", lambda b: {"input_ids": ids(b)}, **GPT2)),
    "gpt2 bfloat16": Case(of("GPT2LMHeadModel", "GPT2Config", then=lambda m: m.bfloat16(), **GPT2)),
    "gpt2 checkpointed": Case(of("GPT2LMHeadModel", "GPT2Config", then=checkpointed, **GPT2)),
    "llama flex attention": Case(decoder("LlamaConfig", **GROUPED, attn_implementation="flex_attention")),
    # Experts
    "mixtral": Case(decoder("MixtralConfig", **GROUPED, num_local_experts=4)),
    "qwen2_moe": Case(
        decoder(
            "Qwen2MoeConfig",
            **GROUPED,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=64,
        )
    ),
    "deepseek_v3": Case(
        decoder(
            "DeepseekV3Config",
            **TEXT,
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            moe_intermediate_size=32,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=16,
        )
    ),
    # State spaces
    "mamba": Case(
        decoder(
            "MambaConfig",
            inputs=lambda b: like_ids(b, 16),
            hidden_size=64,
            state_size=8,
            num_hidden_layers=2,
            vocab_size=WORDS,
        )
    ),
    "mamba2": Case(
        decoder(
            "Mamba2Config",
            inputs=lambda b: like_ids(b, 16),
            hidden_size=64,
            state_size=16,
            num_hidden_layers=2,
            vocab_size=WORDS,
            num_heads=8,
            head_dim=16,
            n_groups=1,
            chunk_size=16,
        )
    ),
    # Encoder and decoder
    "bart": Case(of("BartForConditionalGeneration", "BartConfig", translated, **BOTH, max_position_embeddings=64)),
    "pegasus": Case(
        of("PegasusForConditionalGeneration", "PegasusConfig", translated, **BOTH, max_position_embeddings=64)
    ),
    "t5": Case(
        of(
            "T5ForConditionalGeneration",
            "T5Config",
            translated,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            vocab_size=WORDS,
            decoder_start_token_id=0,
        )
    ),
    "whisper": Case(
        of(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            lambda b: {"input_features": torch.randn(b, 16, 100), "labels": ids(b, 16)},
            **BOTH,
            num_mel_bins=16,
            max_source_positions=50,
            max_target_positions=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    ),
    # Encoders of text
    "bert with all outputs": Case(
        of(
            "BertModel",
            "BertConfig",
            lambda b: {"input_ids": ids(b)},
            **TEXT,
            attn_implementation="eager",
            output_attentions=True,
            output_hidden_states=True,
        )
    ),
    "roberta": Case(
        of(
            "RobertaForSequenceClassification",
            "RobertaConfig",
            classes,
            **{**TEXT, "max_position_embeddings": 66},
            num_labels=3,
        )
    ),
    "deberta_v2": Case(
        of(
            "DebertaV2ForMaskedLM",
            "DebertaV2Config",
            whole,
            **TEXT,
            relative_attention=True,
            position_buckets=16,
            pos_att_type=["p2c", "c2p"],
            type_vocab_size=0,
        )
    ),
    "albert": Case(of("AlbertForMaskedLM", "AlbertConfig", **{**TEXT, "num_hidden_layers": 4}, embedding_size=32)),
    "electra": Case(of("ElectraForSequenceClassification", "ElectraConfig", classes, **TEXT, embedding_size=32)),
    "distilbert": Case(
        of(
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            dim=64,
            hidden_dim=128,
            n_layers=2,
            n_heads=4,
            vocab_size=WORDS,
            max_position_embeddings=64,
        )
    ),
    # Images, video, sound
    "clip": Case(clip),
    "vit": Case(of("ViTForImageClassification", "ViTConfig", pixels(32), **SIZES, image_size=32, patch_size=8)),
    "vit_mae": Case(
        of(
            "ViTMAEForPreTraining",
            "ViTMAEConfig",
            lambda b: {"pixel_values": torch.randn(b, 3, 32, 32)},
            **SIZES,
            image_size=32,
            patch_size=8,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=64,
        )
    ),
    "swin": Case(
        of(
            "SwinForImageClassification",
            "SwinConfig",
            pixels(32),
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            num_labels=5,
        )
    ),
    "convnext": Case(
        of(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            pixels(64),
            hidden_sizes=[16, 32, 64, 128],
            depths=[1, 1, 2, 1],
            num_labels=5,
        )
    ),
    "dinov2": Case(
        of("Dinov2ForImageClassification", "Dinov2Config", pixels(28), **SIZES, image_size=28, patch_size=7)
    ),
    "segformer": Case(
        of(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            lambda b: {"pixel_values": torch.randn(b, 3, 64, 64), "labels": torch.randint(0, 5, (b, 64, 64))},
            hidden_sizes=[16, 32, 64, 128],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 4, 8],
            decoder_hidden_size=32,
            num_labels=5,
        )
    ),
    "detr": Case(detr),
    "timesformer": Case(
        of(
            "TimesformerForVideoClassification",
            "TimesformerConfig",
            pixels(16, (4,)),
            **SIZES,
            image_size=16,
            patch_size=8,
            num_frames=4,
            num_labels=5,
        )
    ),
    "hubert": Case(
        of(
            "HubertForSequenceClassification",
            "HubertConfig",
            lambda b: {"input_values": torch.randn(b, 2000), "labels": torch.zeros(b).long()},
            **SPEECH,
            mask_time_prob=0.0,
            layerdrop=0.0,
        )
    ),
}
