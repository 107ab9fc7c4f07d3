"""BERT and ViT: encoders, from transformers' configurations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, ViTConfig, ViTForImageClassification

from mpsim.workload.example import Example
from mpsim.workload.zoo.attention import ATTENTION, construct, cross_entropy_of_tokens, random_tokens
from mpsim.workload.zoo.convolutional import classify_images

__all__ = ["bert", "vit"]


class _Bert(BertForMaskedLM):  # type: ignore[misc]
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, seq, vocab]."""
        logits: torch.Tensor = super().forward(input_ids=input_ids).logits
        return logits


class _ViT(ViTForImageClassification):  # type: ignore[misc]
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes]."""
        logits: torch.Tensor = super().forward(pixel_values=pixel_values).logits
        return logits


_BERT_STYLES = {
    "bert.embeddings.word_embeddings": "vocabulary",
    "bert.embeddings.*": "replicate",
    "bert.encoder.layer.*.attention.self.*": "colwise",
    "bert.encoder.layer.*.attention.output.dense": "rowwise",
    "bert.encoder.layer.*.intermediate.dense": "colwise",
    "bert.encoder.layer.*.output.dense": "rowwise",
    "cls.predictions.decoder": "vocabulary",
    "cls.*": "replicate",
}


def bert(
    batch: int, *, n_layer: int, hidden: int, n_head: int, ffn: int, vocab: int, positions: int, seq: int
) -> Example:
    """Return BERT as a masked language model that is asked for every token.

    Examples
    --------
    >>> example = bert(2, n_layer=1, hidden=8, n_head=2, ffn=16, vocab=11, positions=8, seq=4)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 4, 11])
    """
    config = BertConfig(
        num_hidden_layers=n_layer,
        hidden_size=hidden,
        num_attention_heads=n_head,
        intermediate_size=ffn,
        vocab_size=vocab,
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=ATTENTION,
    )
    return Example(
        model=construct(_Bert, config),
        inputs=(random_tokens(vocab, batch, seq),),
        target=random_tokens(vocab, batch, seq),
        loss=cross_entropy_of_tokens,
        tensor_parallel=_BERT_STYLES,
        shared={"attention heads": n_head},
    )


def _vit_styles(model: nn.Module) -> dict[str, str]:
    """Return the styles; transformers renamed ViT's projections in the course of version 5."""
    column = ("q_proj", "k_proj", "v_proj", "query", "key", "value", "fc1", "intermediate.dense")
    row = ("o_proj", "fc2", "output.dense")
    styles: dict[str, Any] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and path != "classifier":
            styles[path] = "colwise" if path.endswith(column) else "rowwise" if path.endswith(row) else "replicate"
    return styles | {"vit.embeddings": "replicate", "vit.embeddings.*": "replicate", "classifier": "replicate"}


def vit(
    batch: int, *, n_layer: int, hidden: int, n_head: int, ffn: int, image: int, patch: int, classes: int
) -> Example:
    """Return ViT on colour images.

    Examples
    --------
    >>> example = vit(2, n_layer=1, hidden=8, n_head=2, ffn=16, image=16, patch=8, classes=3)
    >>> example.model(*example.inputs).shape
    torch.Size([2, 3])
    """
    config = ViTConfig(
        num_hidden_layers=n_layer,
        hidden_size=hidden,
        num_attention_heads=n_head,
        intermediate_size=ffn,
        image_size=image,
        patch_size=patch,
        num_labels=classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=ATTENTION,
    )
    model = construct(_ViT, config)
    images = classify_images(model, batch, channels=3, image=image, classes=classes)
    return Example(
        model=model,
        inputs=images.inputs,
        target=images.target,
        loss=images.loss,
        tensor_parallel=_vit_styles(model),
        shared={"attention heads": n_head},
    )
