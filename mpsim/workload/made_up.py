"""A made-up batch for a model of transformers: random tokens, pixels or sound of the sizes its configuration has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mpsim.errors import MpsimError

__all__ = ["batch_for"]

_MOST_TOKENS = 512
_SECOND = 16_000  # of sound: what speech models are trained on
_CHOICES = 2


def batch_for(model: Any, batch: int, length: int | None = None) -> dict[str, Any]:
    """Return keyword arguments for a model's forward: its inputs, and labels where it makes a loss of them.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its class says what goes in, its configuration the sizes.
    batch : int
        Samples.
    length : int
        Tokens, samples of sound or frames of it in a row; by default the most that the model takes, a power of two up
        to 512 tokens, or a second of sound.

    Raises
    ------
    MpsimError
        A kind of input that is not known here, or a row longer than the model has positions for.

    Examples
    --------
    >>> import transformers
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)
    >>> made = batch_for(transformers.ViTForImageClassification(config), 2)
    >>> {name: tuple(value.shape) for name, value in made.items()}
    {'pixel_values': (2, 3, 8, 8), 'labels': (2,)}
    """
    takes = inspect.signature(model.forward).parameters
    main = model.main_input_name
    if main not in _INPUTS:
        raise MpsimError(
            f"no batch can be made up for {type(model).__name__}, whose input is {main!r}: give a factory f(batch) ->"
            " (model, inputs)"
        )
    first = _INPUTS[main](model, batch, length)
    made: dict[str, Any] = {main: first.to(model.dtype) if first.is_floating_point() else first}
    if "return_loss" in takes:  # two towers, compared with each other
        made |= {"pixel_values": _pixels(model, batch, length).to(model.dtype), "return_loss": True}
    if made.get("input_ids") is not None and _task(model) == "MULTIPLE_CHOICE":
        made["input_ids"] = made["input_ids"].unsqueeze(1).repeat(1, _CHOICES, 1)
    labels = _labels(model, made[main], batch, length)
    made |= {name: value for name, value in labels.items() if name in takes}
    if model.config.is_encoder_decoder and "labels" not in made and "decoder_input_ids" in takes:
        made["decoder_input_ids"] = _tokens(model, batch, length)
    return made


def _size(config: Any, names: tuple[str, ...], default: Any) -> Any:
    """Return the first of these fields that a configuration has, in itself or in its parts."""
    for part in (config, *(getattr(config, f"{name}_config", None) for name in ("vision", "audio", "backbone"))):
        for name in names:
            if part is not None and getattr(part, name, None) is not None:
                return getattr(part, name)
    return default


def _tokens(model: Any, batch: int, length: int | None) -> torch.Tensor:
    """Return random tokens, none of them special: a padding token would mask, an end token cut."""
    config = model.config.get_text_config()
    most = _size(config, ("max_position_embeddings", "max_target_positions", "n_positions", "max_seq_len"), None)
    if length is not None and most is not None and length > most > 0:
        raise MpsimError(
            f"seq is {length}, {type(model).__name__} has positions for {most}: set max_position_embeddings={length} as"
            " well"
        )
    if length is None:
        length = 1 << (min(most or _MOST_TOKENS, _MOST_TOKENS).bit_length() - 1)
    special = sorted(token for token in _special(config.to_dict()) if token < config.vocab_size)
    ids = torch.randint(0, max(1, config.vocab_size - len(special)), (batch, length))
    for token in special if len(special) < config.vocab_size else ():
        ids = ids + (ids >= token)
    return ids


def _special(fields: Mapping[str, Any]) -> set[int]:
    found: set[int] = set()
    for name, value in fields.items():
        if name.endswith(("_token_id", "_token_index")):
            found.update(item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int))
    return {token for token in found if token >= 0}


def _pixels(model: Any, batch: int, length: int | None) -> torch.Tensor:
    size = _size(model.config, ("image_size",), 224)
    height, width = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
    if isinstance(size, list | tuple):
        height, width = size
    frames = [_size(model.config, ("num_frames",), 8)] if _task(model) == "VIDEO_CLASSIFICATION" else []
    return torch.randn(batch, *frames, _size(model.config, ("num_channels", "in_channels"), 3), height, width)


def _sound(model: Any, batch: int, length: int | None) -> torch.Tensor:
    bins, frames = (_size(model.config, (name,), None) for name in ("num_mel_bins", "max_length"))
    if bins and frames and _task(model) == "AUDIO_CLASSIFICATION":  # a spectrogram of one length
        return torch.randn(batch, frames, bins)
    return torch.randn(batch, length or _SECOND)


def _features(model: Any, batch: int, length: int | None) -> torch.Tensor:
    config = model.config
    bins = _size(config, ("input_feat_per_channel", "feature_projection_input_dim"), None)
    if bins is not None:
        return torch.randn(batch, length or _MOST_TOKENS, bins)
    # Whisper's encoder halves its frames, and takes exactly as many as it has positions for.
    return torch.randn(batch, _size(config, ("num_mel_bins",), 80), 2 * _size(config, ("max_source_positions",), 1500))


_INPUTS: dict[str, Callable[[Any, int, int | None], torch.Tensor]] = {
    "input_ids": _tokens,
    "pixel_values": _pixels,
    "input_values": _sound,
    "input_features": _features,
}

_CLASS = ("SEQUENCE", "IMAGE", "VIDEO", "AUDIO")
_TASKS = (
    *(f"{name}_CLASSIFICATION" for name in _CLASS),
    "TOKEN_CLASSIFICATION",
    "QUESTION_ANSWERING",
    "MULTIPLE_CHOICE",
    "NEXT_SENTENCE_PREDICTION",
    "SEMANTIC_SEGMENTATION",
    "CTC",
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "MASKED_LM",
    "IMAGE_TEXT_TO_TEXT",
    "PRETRAINING",
)


def _task(model: Any) -> str:
    """Return which of transformers' tasks a model's class is for; ``""`` for none of those with labels."""
    from transformers.models.auto import modeling_auto

    for task in _TASKS:
        classes = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}).values()
        if any(type(model).__name__ in ((found,) if isinstance(found, str) else found) for found in classes):
            return task
    return ""


def _labels(model: Any, main: torch.Tensor, batch: int, length: int | None) -> dict[str, Any]:
    """Return what the class calls its labels, of the shape and range that its task has."""
    task, config = _task(model), model.config
    if task.removesuffix("_CLASSIFICATION") in _CLASS:
        return {"labels": _classes(config, batch)}
    if task in ("MULTIPLE_CHOICE", "NEXT_SENTENCE_PREDICTION"):
        return {"labels": torch.randint(0, 2, (batch,))}
    if task == "TOKEN_CLASSIFICATION":
        return {"labels": torch.randint(0, config.num_labels, tuple(main.shape[:2]))}
    if task == "QUESTION_ANSWERING":
        return {name: torch.randint(0, main.shape[1], (batch,)) for name in ("start_positions", "end_positions")}
    if task == "SEMANTIC_SEGMENTATION":
        return {"labels": torch.randint(0, config.num_labels, (batch, *main.shape[-2:]))}
    if task == "CTC":
        return {"labels": torch.randint(1, config.vocab_size, (batch, 4))}
    if task in ("", "PRETRAINING") and main.is_floating_point():
        return {}
    if task:
        sentence = {name: torch.randint(0, 2, (batch,)) for name in ("next_sentence_label", "sentence_order_label")}
        tokens = _tokens(model, batch, length) if main.is_floating_point() else main.clone()
        return {"labels": tokens} | sentence
    return {}


def _classes(config: Any, batch: int) -> torch.Tensor:
    if config.problem_type == "multi_label_classification":
        return torch.randint(0, 2, (batch, config.num_labels)).float()
    if config.num_labels == 1:
        return torch.randn(batch)
    return torch.randint(0, config.num_labels, (batch,))
