"""One entry of the zoo: its sizes, how they are overridden, and how it is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from mpsim.errors import MpsimError, did_you_mean

if TYPE_CHECKING:
    from mpsim.workload.example import Example

__all__ = ["Size", "ZooModel", "parse_overrides"]

Size: TypeAlias = int | float | str | bool | tuple[int, ...]

# What is a module, each: of a million, making them takes longer than anybody waits.
_MODULES = ("n_layer", "n_decoder_layer", "n_dense_layer", "n_expert", "n_shared_expert", "blocks", "depth")
_MOST_MODULES, _MOST_EXPERTS, _MOST = 10_000, 200_000, 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """A model that mpsim can build with random weights, in any size.

    Attributes
    ----------
    name, description : str
        For people.
    factory : str
        ``module:function`` that takes the batch and every size and returns an Example.
    sizes : mapping of str to Size
        What can be overridden, with the defaults.
    presets : mapping of str to mapping
        Named sets of sizes that the override ``size=NAME`` chooses (letters in either case).
    default_batch : int
        Samples in the batch that `build` makes where none is asked for.
    dataset_samples : int
        Samples in one epoch of the data set the model is known for; 0 if there is none.
    parameters : int
        Parameters at the default sizes, each tied one counted once.

    Examples
    --------
    >>> mlp = ZooModel(name="mlp", description="", factory="m:f", sizes={"width": 8}, default_batch=1)
    >>> mlp.resolve({"width": 16})
    {'width': 16}
    >>> mlp.resolve({"widht": 16})
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: mlp has no size 'widht'; did you mean 'width'?
    """

    name: str
    description: str
    factory: str
    sizes: Mapping[str, Size]
    presets: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)
    default_batch: int
    dataset_samples: int = 0
    parameters: int = 0

    def resolve(self, overrides: Mapping[str, Size]) -> dict[str, Size]:
        """Return every size: the defaults, then those of the preset, then the overrides.

        Raises
        ------
        MpsimError
            An unknown name, a value of another type than the default, or one that is not positive.
        """
        given = {name: self._checked(name, value) for name, value in overrides.items()}
        preset: Mapping[str, Size] = {}
        if "size" in given and self.presets:
            name = self._preset(str(given["size"]))
            preset, given["size"] = self.presets[name], name
        return {**self.sizes, **preset, **given}

    def build(self, batch: int | None = None, **overrides: Size) -> Example:
        """Make the model, a batch for it, and the loss, on torch's default device.

        Parameters
        ----------
        batch : int or None
            Samples; None for `default_batch`.
        **overrides : Size
            Sizes by name, as in `sizes`.

        Raises
        ------
        MpsimError
            A size that does not exist or does not fit the others, or torch is not installed.
        """
        samples = self.default_batch if batch is None else batch
        if samples < 1:
            raise MpsimError(f"{self.name}: batch is {samples}, expected 1 or more")
        sizes = self.resolve(overrides)
        self._check_together(sizes)
        return self._build(samples, sizes)

    def _build(self, batch: int, sizes: Mapping[str, Size]) -> Example:
        module, function = self.factory.split(":")
        try:
            factory = getattr(import_module(module), function)
        except ModuleNotFoundError as error:
            raise MpsimError(
                f"{self.name} needs {error.name}, which is not installed: pip install 'mpsim[trace]'"
            ) from None
        example: Example = factory(batch, **sizes)
        return dataclasses.replace(example, dataset_samples=self.dataset_samples)

    def _preset(self, text: str) -> str:
        for name in self.presets:
            if name.lower() == text.lower():
                return name
        raise MpsimError(f"{self.name} has no preset {text!r}{did_you_mean(text.upper(), self.presets)}")

    def _checked(self, name: str, value: Size) -> Size:
        if name not in self.sizes:
            raise MpsimError(f"{self.name} has no size {name!r}{did_you_mean(name, self.sizes)}")
        default = self.sizes[name]
        if isinstance(default, tuple) and type(value) is int:
            value = (value,)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise MpsimError(f"{self.name}: {name} is {value!r}, expected {_kind(default)} such as {_text(default)}")
        numbers = value if isinstance(value, tuple) else (value,)
        if any(type(number) is int and number < 1 for number in numbers):
            raise MpsimError(f"{self.name}: {name} is {_text(value)}, expected 1 or more")
        most = _MOST_MODULES if name in _MODULES else _MOST
        if any(type(number) is int and number > most for number in numbers) or len(numbers) > _MOST_MODULES:
            raise MpsimError(f"{self.name}: {name} is {_text(value)[:40]}, expected at most {most:,}")
        return value

    def _check_together(self, sizes: Mapping[str, Size]) -> None:
        """Refuse sizes that no transformer can have together."""
        for whole, part in (("hidden", "n_head"), ("n_head", "n_kv_head"), ("image", "patch")):
            a, b = sizes.get(whole), sizes.get(part)
            free = whole == "hidden" and ("head_dim" in sizes or "rope_dim" in sizes)  # heads have a width of their own
            if isinstance(a, int) and isinstance(b, int) and a % b and not free:
                raise MpsimError(f"{self.name}: {whole} {a} does not divide by {part} {b}")
        layers, experts = sizes.get("n_layer", 1), sizes.get("n_expert", 1)
        if isinstance(layers, int) and isinstance(experts, int) and layers * experts > _MOST_EXPERTS:
            raise MpsimError(f"{self.name}: {layers:,} layers of {experts:,} experts: {_MOST_EXPERTS:,} in all at most")
        seq, positions = sizes.get("seq"), sizes.get("positions")
        if isinstance(seq, int) and isinstance(positions, int) and seq > positions:
            raise MpsimError(f"{self.name}: seq {seq} is longer than positions {positions}: raise positions too")


def parse_overrides(texts: Iterable[str]) -> dict[str, Size]:
    """Parse ``NAME=VALUE`` words, as ``--set`` takes them.

    Parameters
    ----------
    texts : iterable of str
        A value is a whole number, a number, ``true`` or ``false``, several whole numbers with commas
        between, or else a word.

    Raises
    ------
    MpsimError
        A word without ``=``, or a name given twice.

    Examples
    --------
    >>> parse_overrides(["n_layer=4", "widths=784,256,10", "size=7B"])
    {'n_layer': 4, 'widths': (784, 256, 10), 'size': '7B'}
    """
    overrides: dict[str, Size] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise MpsimError(f"cannot read {text!r}: write NAME=VALUE, as in n_layer=4")
        if name in overrides:
            raise MpsimError(f"{name!r} is set twice: {_text(overrides[name])} and {value}")
        overrides[name] = _value(value)
    return overrides


def _value(text: str) -> Size:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        numbers = tuple(int(part) for part in text.split(",") if part)
        return numbers if "," in text else numbers[0]
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: Size) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kind(default: Size) -> str:
    kinds = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    return kinds.get(type(default), "whole numbers with commas between")
