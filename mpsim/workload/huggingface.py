"""Models of transformers from their configuration, with random weights: nothing is fetched."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError, did_you_mean
from mpsim.files import parse_json, read_text
from mpsim.workload.example import Example
from mpsim.workload.model_source import Source, labelled

__all__ = ["path_source", "transformers_source"]

_COUNTS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers",
    "num_local_experts", "num_experts", "n_routed_experts",
)  # fmt: skip
_MOST = 10_000
# Which class a configuration that names none is built as: the first of these that has one for it.
_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModelForVideoClassification",
    "AutoModelForCTC",
    "AutoModel",
)


def path_source(path: str, overrides: Mapping[str, Any] | None = None) -> Source:
    """Return the source for a folder with a config.json of transformers, or for such a file.

    Parameters
    ----------
    path : str
        A folder or file on this machine.
    overrides : mapping
        ``seq``, the length of a row of tokens or sound, and fields of the configuration; those of a part of it with a
        dot, as in ``text_config.num_hidden_layers``.

    Raises
    ------
    MpsimError
        No such folder or file, no configuration of transformers, an unknown field.

    Examples
    --------
    >>> path_source("meta-llama/Llama-3-8B")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: there is no folder or file 'meta-llama/Llama-3-8B' here, and nothing is fetched from the \
hub: download the model's config.json and give its folder, as in hf:FOLDER
    """
    overrides = dict(overrides or {})
    file = _file(path)
    fields = _fields(file)
    length = overrides.get("seq")
    config = _config(fields, {name: value for name, value in overrides.items() if name != "seq"}, file)
    folder = file.resolve().parent.name
    name = folder if file.stem == "config" and folder else file.stem
    return _source(config, labelled(name, overrides), length)


def transformers_source(model: Any, name: str | None = None) -> Source:
    """Return the source for a model of transformers or for its configuration, with batches made to fit it.

    Examples
    --------
    >>> import transformers
    >>> sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 11, "n_positions": 4}
    >>> config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)
    >>> example = transformers_source(config).build(3)
    >>> type(example.model).__name__, {name: tuple(value.shape) for name, value in example.keywords.items()}
    ('GPT2LMHeadModel', {'input_ids': (3, 4), 'labels': (3, 4)})
    """
    import transformers

    if isinstance(model, transformers.PretrainedConfig):
        return _source(model, name or model.model_type, None)
    return Source(name=name or type(model).__name__, build=lambda batch: _example(model, batch, None))


def _source(config: Any, name: str, length: int | None) -> Source:
    kind = _class(config)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise MpsimError(f"seq is {length!r}, expected a whole number of 1 or more")

    def build(batch: int) -> Example:
        with _quiet():
            return _example(kind(copy.deepcopy(config)), batch, length)

    return Source(name=name, build=build, by_shape=True)


def _example(model: Any, batch: int, length: int | None) -> Example:
    from mpsim.workload.made_up import batch_for

    return Example(model=model, inputs=(), keywords=batch_for(model, batch, length))


def _file(path: str) -> Path:
    found = Path(path).expanduser()
    if not path or not found.exists():
        raise MpsimError(
            f"there is no folder or file {path!r} here, and nothing is fetched from the hub: download the model's"
            " config.json and give its folder, as in hf:FOLDER"
        )
    if found.is_dir():
        found = found / "config.json"
        if not found.exists():
            raise MpsimError(f"folder {path!r} holds no config.json: give one that does, or the file itself")
    return found


def _fields(file: Path) -> dict[str, Any]:
    text = read_text(file)
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise MpsimError(f"{file} is no JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
        raise MpsimError(f"{file} names no model_type: give a config.json of transformers")
    return fields


def _config(fields: Mapping[str, Any], overrides: Mapping[str, Any], file: Path) -> Any:
    transformers = _transformers()
    kinds = transformers.CONFIG_MAPPING
    kind = fields["model_type"]
    if kind not in kinds:
        known = list(kinds)
        own = "; its code is its own (auto_map): give a factory" if "auto_map" in fields else did_you_mean(kind, known)
        raise MpsimError(f"{file}: transformers {transformers.__version__} has no model_type {kind!r}{_short(own)}")
    with _quiet(), _one_line(str(file)):
        # The defaults count as fields too: a file says only what differs from them.
        whole = kinds[kind].from_dict(dict(fields)).to_dict()
    for name, value in overrides.items():
        _set(whole, name, value, kinds[kind])
    if "use_cache" in whole and "use_cache" not in overrides:
        whole["use_cache"] = False  # keys and values of generation: a training step has no use for them
    _check_counts(whole, str(file))
    with _quiet(), _one_line(labelled(str(file), overrides)):
        return kinds[kind].from_dict(whole)


def _check_counts(fields: Mapping[str, Any], what: str) -> None:
    """Refuse more layers or experts than can be built one by one: each is a module, memory or not."""
    for name, value in fields.items():
        if isinstance(value, dict) and name.endswith("_config"):
            _check_counts(value, what)
        elif name in _COUNTS and isinstance(value, int) and value > _MOST:
            raise MpsimError(f"{what}: {name} is {value:,}, expected at most {_MOST:,}")


def _set(fields: dict[str, Any], name: str, value: Any, kind: Any) -> None:
    """Set one field, in a part of the configuration where the name has a dot; lists with an item a layer follow."""
    *parts, last = name.split(".")
    inner = fields
    for part in parts:
        inner = inner.get(part, {}) if isinstance(inner, dict) else {}
    mapped = last if parts else getattr(kind, "attribute_map", {}).get(last, last)
    if not isinstance(inner, dict) or mapped not in inner:
        raise MpsimError(f"{kind.__name__} has no field {name!r}{_short(did_you_mean(name, ['seq', *_names(fields)]))}")
    before, inner[mapped] = inner[mapped], list(value) if isinstance(value, tuple) else value
    if mapped in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") and isinstance(value, int) and before:
        for other, items in inner.items():
            if "layer" in other and isinstance(items, list) and len(items) == before:
                inner[other] = [items[i % before] for i in range(value)]


def _names(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in fields.items():
        yield prefix + name
        if isinstance(value, dict) and name.endswith("_config"):
            yield from _names(value, f"{prefix}{name}.")


def _short(known: str) -> str:
    """Leave out what would be a page of names."""
    return known if len(known) < 200 else ""


def _class(config: Any) -> Any:
    """Return what makes a model of a configuration."""
    transformers = _transformers()
    named = config.architectures or ()
    for name in [named] if isinstance(named, str) else named:
        found: Any = getattr(transformers, str(name), None)
        if not hasattr(found, "_from_config"):
            raise MpsimError(
                f"transformers {transformers.__version__} has no model {name!r}, which the configuration names"
            )
        return found._from_config  # as from_pretrained makes it: in the configuration's dtype
    for name in _CLASSES:
        auto = getattr(transformers, name)
        if type(config) in auto._model_mapping:
            return auto.from_config
    raise MpsimError(f"transformers has no model for {type(config).__name__}: give a factory f(batch) of your own")


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise MpsimError("hf: needs transformers, which is not installed: pip install 'mpsim[trace]'") from None
    return transformers


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what transformers logs of defaults and unused fields."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Say in one line why a configuration is none."""
    try:
        yield
    except Exception as error:  # each configuration checks itself in its own way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise MpsimError(f"{what} is refused by transformers: {lines[-1]}") from error
