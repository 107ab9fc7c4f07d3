"""The command line's way to write a topology: a file, or a builder with its arguments.

::

    cluster.json
    dgx_h100:4
    dgx_h100:4,costs=none
    ring:8,link=nvlink4,device=H100-SXM5-80GB
    ring:4,bandwidth=50GB/s,latency=2us,memory=80GiB
    torus:4x4,link=50GB/s@2us
    nodes:2,per_node=4,nics=4,inside=nvlink4,between=25GbE@20us
    switch:8,link=nvlink3,device=A100-SXM4-80GB*4+H100-SXM5-80GB*4,speed=1*4+2*4

After the builder's name come its sizes, then its keyword arguments by name. A list is written ``value*count+…``.
``costs=published`` gives links what collectives were published to cost over such (presets have it, unless
``costs=none``). ``offload=25GB/s@1us`` gives each device a host of its own to put activations at.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mpsim import units
from mpsim.calls import checked
from mpsim.documents import Provenance
from mpsim.errors import MpsimError, did_you_mean, unknown
from mpsim.topology.builders import BUILDERS
from mpsim.topology.catalog import parse_wire, topology_device
from mpsim.topology.file import load_topology
from mpsim.topology.hosts import with_hosts
from mpsim.topology.model import Device, Topology
from mpsim.topology.presets import PRESETS
from mpsim.topology.published import with_published
from mpsim.topology.wire import Wire

__all__ = ["parse_topology"]

_EXAMPLE = "ring:8,link=nvlink4 or ring:4,bandwidth=50GB/s,latency=2us"

# No size or count has more digits: past half a million devices nothing is built.
_DIGITS = 9


def _overlap(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MpsimError(
            f"overlap {text!r} is not a number: write overlap=1.2 if computing takes 20 % longer beside communication"
        ) from None


def _speed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MpsimError(f"speed {text!r} is not a number: write speed=2 for twice as fast") from None


# What may be said of devices on top of a builder's own arguments: name → (field of Device, parser of one value).
_OF_DEVICES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "type": ("type", str),
    "memory": ("memory_bytes", lambda text: units.size(text, "memory")),
    "speed": ("speed", _speed),
    "overlap": ("overlap_slowdown", _overlap),
}


@checked
def parse_topology(text: str) -> Topology:
    """Return the topology that a text stands for: the path of a file, or a builder with its arguments.

    Parameters
    ----------
    text : str
        Such as ``ring:8,link=nvlink4,device=H100-SXM5-80GB``; a builder's text becomes the topology's name.

    Raises
    ------
    MpsimError
        No such file, an unknown builder or argument, a missing link, or a bare number where a unit is due.

    Examples
    --------
    >>> box = parse_topology("switch:4,link=nvlink4,device=A100-SXM4-40GB*2+H100-SXM5-80GB*2")
    >>> [device.type for device in box.devices]
    ['A100-SXM4-40GB', 'A100-SXM4-40GB', 'H100-SXM5-80GB', 'H100-SXM5-80GB']
    >>> parse_topology("ring:8")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: 'ring:8' has no link: add link=nvlink4, or bandwidth=50GB/s,latency=2us
    """
    name, _, rest = text.partition(":")
    if os.path.isfile(text) or _looks_like_a_file(name):
        return _load(text)
    if name in PRESETS:
        return _of(text, lambda: _preset(text, name, rest))
    if name not in BUILDERS:
        raise _no_builder(text, name)
    if not rest:
        raise MpsimError(f"{text!r} has no size: write {_usage(name)}")
    return _of(text, lambda: _build(text, name, rest))


def _of(text: str, build: Callable[[], Topology]) -> Topology:
    """Build, and say of an error which text it is about."""
    try:
        return build()
    except MpsimError as error:
        message = str(error)
        raise MpsimError(message if repr(text) in message else f"{text}: {message}") from None


def _preset(text: str, name: str, rest: str) -> Topology:
    """Return a preset of some sizes, or of none, with or without costs."""
    sizes, _, costs = rest.rpartition(",") if "," in rest else ("", "", rest) if "=" in rest else (rest, "", "")
    key, equals, value = costs.partition("=")
    if (costs or "," in rest) and (key, equals) != ("costs", "="):
        raise MpsimError(f"{text!r}: {costs!r} is not costs=none or costs=published, all that a preset takes")
    made = PRESETS[name].build(text, _preset_sizes(text, sizes), costs=not costs or _has_costs(text, value))
    if costs and value == "published" and not made.costs:
        raise MpsimError(f"no costs were published for links of {text!r}: leave out costs")
    return made


def _has_costs(text: str, value: str) -> bool:
    if value not in ("published", "none"):
        raise MpsimError(f"{text!r}: {unknown('costs', value, ['published', 'none'])}")
    return value == "published"


def _preset_sizes(text: str, rest: str) -> list[int]:
    if rest and not re.fullmatch(r"[0-9]{1,6}(x[0-9]{1,6})*", rest):
        raise MpsimError(f"{text!r}: {rest!r} is not a size: write dgx_h100:4, or tpu_v4:4x4x8")
    return [int(size) for size in rest.split("x")] if rest else []


def _looks_like_a_file(name: str) -> bool:
    return "/" in name or "\\" in name or bool(re.search(r"\.\w+$", name))


def _load(path: str) -> Topology:
    try:
        return load_topology(path)
    except MpsimError as error:
        if Path(path).exists():
            raise
        raise MpsimError(f"{error}; a topology is a file, or a builder such as {_EXAMPLE}") from None


def _no_builder(text: str, name: str) -> MpsimError:
    before, comma, after = name.partition(",")
    if comma and before in PRESETS:
        return MpsimError(f"{text!r}: write {before}:{after}, a colon after the name")
    if ":" in text:
        return MpsimError(f"{unknown('topology', name, [*BUILDERS, *PRESETS])} (or write a file's path)")
    hint = did_you_mean(name, [*BUILDERS, *PRESETS])
    return MpsimError(f"no file and no topology {text!r}{hint}; write a file's path, or a builder such as {_EXAMPLE}")


def _build(text: str, name: str, rest: str) -> Topology:
    sizes, arguments = _split(text, name, rest)
    said = {key: _values(arguments.pop(key)) for key in ("device", *_OF_DEVICES) if key in arguments}
    costs = _has_costs(text, arguments.pop("costs", "none"))
    offload = arguments.pop("offload", "")
    keywords = _keywords(text, name, arguments)
    made = BUILDERS[name](*sizes, **keywords)
    made = with_published(made, required=True) if costs else made
    made = replace(made, devices=_described(made.devices, said))
    made = with_hosts(made, parse_wire(offload)) if offload else made
    return replace(made, name=text, provenance=Provenance(source=text))


def _split(text: str, name: str, rest: str) -> tuple[list[int], dict[str, str]]:
    """Return a builder's sizes and its arguments by name, as text."""
    first, *others = [part.strip() for part in rest.split(",")]
    if not re.fullmatch(r"[0-9]+(x[0-9]+)*", first):
        raise MpsimError(f"{text!r}: {first!r} is not a size: write {_usage(name)}")
    arguments: dict[str, str] = {}
    for part in others:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise MpsimError(f"{text!r}: {part!r} is not name=value: write {_usage(name)}")
        if key in arguments:
            raise MpsimError(f"{text!r}: {key} is given twice, {arguments[key]!r} and {value!r}: leave one out")
        arguments[key] = value
    longest = max(map(len, first.split("x")))
    if longest > _DIGITS:
        raise MpsimError(f"{name} has a size of {longest} digits: 500,000 devices at most are built: ask for fewer")
    sizes = [int(size) for size in first.split("x")]
    least, most = _sizes(name)
    if not least <= len(sizes) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise MpsimError(f"{text!r} has {len(sizes)} sizes, {name} takes {wanted}: write {_usage(name)}")
    return sizes, arguments


def _sizes(name: str) -> tuple[int, float]:
    """Return how many sizes a builder takes, at least and at most."""
    parameters = [p for p in inspect.signature(BUILDERS[name]).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 1, math.inf
    return sum(p.default is p.empty for p in parameters), len(parameters)


def _keywords(text: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return a builder's keyword arguments, each of the type that its signature asks for."""
    named, hints = _named(name), get_type_hints(BUILDERS[name])
    given = _with_link(text, given) if "link" in named else dict(given)
    for key in given:
        if key not in named:
            known = [
                *named,
                "costs",
                "device",
                "offload",
                *_OF_DEVICES,
                *(("bandwidth", "latency") if "link" in named else ()),
            ]
            raise MpsimError(f"{text!r}: {unknown('argument', key, known)}")
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in given:
            raise MpsimError(f"{text!r} has no {key}: {_add(key)}")
    return {key: _convert(hints.get(key, str), key, value) for key, value in given.items()}


def _named(name: str) -> dict[str, inspect.Parameter]:
    """Return a builder's arguments that are given by name, but for the devices, which are said in other words."""
    parameters = inspect.signature(BUILDERS[name]).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("device", "devices")}


def _with_link(text: str, given: dict[str, str]) -> dict[str, Any]:
    """Return the arguments with bandwidth and latency as the one link that they describe."""
    quantities = {"bandwidth": units.bandwidth, "latency": units.duration}
    parts = {key: parse(given[key], key) for key, parse in quantities.items() if key in given}
    if "link" in given and parts:
        link = given["link"]
        raise MpsimError(f"{text!r} has link={link} and {min(parts)} too: leave one out, or write link=nvlink4@2us")
    if not parts:
        return dict(given)
    for other in quantities.keys() - parts:
        raise MpsimError(f"{text!r} has a {min(parts)} and no {other}: {_add(other)}")
    wire = Wire(parts["bandwidth"], parts["latency"])
    return {key: value for key, value in given.items() if key not in parts} | {"link": wire}


def _add(key: str) -> str:
    examples = {
        "link": "link=nvlink4, or bandwidth=50GB/s,latency=2us",
        "bandwidth": "bandwidth=50GB/s",
        "latency": "latency=2us, or latency=0 for none",
        "inside": "inside=nvlink4 or inside=300GB/s@2us",
        "between": "between=ib_ndr or between=50GB/s@5us",
        "kinds": "kinds=switch+ring, one for each size",
        "links": "links=ib_ndr+nvlink4, one for each size",
    }
    return f"add {examples.get(key, f'{key}=4')}"


def _usage(name: str) -> str:
    """Return how a builder is written, from its signature."""
    least, most = _sizes(name)
    sizes = "x".join("4" * (2 if most == math.inf else int(least)))
    required = [key for key, p in _named(name).items() if p.default is p.empty]
    examples = [re.split(",| or ", _add(key).removeprefix("add "))[0] for key in required]
    return ",".join([f"{name}:{sizes}", *examples])


def _convert(hint: Any, key: str, value: Any) -> Any:
    """Return one argument as its type hint asks: a wire, a whole number, a list of either, or text."""
    if getattr(hint, "__origin__", None) is Sequence:
        return [_convert(get_args(hint)[0], key, one) for one in value.split("+")]
    kinds = get_args(hint) or (hint,)
    if Wire in kinds:
        return parse_wire(value)
    if int in kinds:
        if not value.isdecimal() or len(value) > _DIGITS:
            raise MpsimError(f"{key} {value[:20]!r} is not a whole number of {_DIGITS} digits or fewer: write {key}=4")
        return int(value)
    return value


def _values(text: str) -> list[tuple[str, int]]:
    """Return the values and counts of ``a*4+b*2``; a count of 0 stands for none given."""
    pairs = [re.fullmatch(rf"(.*?)(?:\*([0-9]{{1,{_DIGITS}}}))?", part.strip()) for part in text.split("+")]
    return [(pair[1].strip(), int(pair[2] or 0)) for pair in pairs if pair]


def _described(devices: tuple[Device, ...], said: dict[str, list[tuple[str, int]]]) -> tuple[Device, ...]:
    """Return the devices with what was said of them: of all alike, or of each in turn."""
    for key, values in said.items():
        each = _spread(key, values, len(devices))
        devices = tuple(replace(device, **_fields(key, one)) for device, one in zip(devices, each, strict=True))
    return devices


def _spread(key: str, values: list[tuple[str, int]], n: int) -> list[str]:
    if len(values) == 1 and not values[0][1]:
        return [values[0][0]] * n
    listed = sum(count or 1 for _, count in values)
    if listed != n:
        raise MpsimError(f"{key} lists {listed:,} devices, the topology has {n}: write value*count to add up to {n}")
    return [value for value, count in values for _ in range(count or 1)]


@cache
def _fields(key: str, value: str) -> dict[str, Any]:
    if key == "device":
        like = topology_device(value)
        return {"type": like.type, "memory_bytes": like.memory_bytes}
    field, parse = _OF_DEVICES[key]
    return {field: parse(value)}
