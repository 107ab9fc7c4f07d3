"""A plan of the words in which results name it: ``dp=2 pp=4 micro-batches=8 1f1b zero=1``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpsim import units
from mpsim.calls import checked
from mpsim.collectives.mapping import AUTO, algorithm_names
from mpsim.errors import MpsimError, unknown
from mpsim.plan.model import LAUNCHES, Plan, load_plan
from mpsim.plan.schedules import SCHEDULES, as_registered
from mpsim.plan.sharding import Sharding
from mpsim.result.plan_text import PlanText

__all__ = ["parse_plan", "plan_of_words"]

_NUMBERS = ("dp", "pp", "tp", "cp", "ep", "microbatches", "chunks", "batch")
_LISTS = {"stages": "boundaries", "boundaries": "boundaries", "place": "devices", "devices": "devices"}
_TEXTS = ("schedule", "algorithm", "runtime", "launch")
_OF_SHARDING = {
    "zero": "zero", "shards": "shards", "ahead": "gather_ahead", "units": "units", "reshard": "reshard_after_forward",
    "gather": "gather_dtype", "reduce": "reduce_dtype", "recompute": "recompute", "offload": "offload",
}  # fmt: skip
_COUNTS = ("zero", "shards", "ahead")
_FLAGS = {"sequence": "sequence", "kept": "keep_gathered", "accumulated": "accumulate"}
_EXAMPLE = "pp=4 microbatches=8 1f1b"


@checked
def parse_plan(text: str) -> Plan:
    """Return the plan that a text stands for: the path of a file, or the words in which results name a plan.

    What the words leave out is as in ``Plan()``. A plan's text says neither its batch nor its runtime: add them, as
    ``batch=64 runtime=torch-nccl``, where micro-batches are not of the workload's own size or the runtime not ideal.
    ``result.plan`` and a table's ``row["plan"]``, as they stand there, have those of the result and the row.

    Raises
    ------
    MpsimError
        No such file, or a word that says nothing of a plan.

    Examples
    --------
    >>> plan = parse_plan("dp=2 pp=4 micro-batches=8 1f1b chunks=2 zero=1")
    >>> plan.schedule, plan.microbatches, plan.sharding.zero, plan.text
    ('1f1b', 8, 1, 'dp=2 pp=4 micro-batches=8 1f1b chunks=2 zero=1')
    >>> parse_plan("pp=4 microbatch=8")
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: plan 'pp=4 microbatch=8': unknown word 'microbatch'; did you mean 'microbatches'?
    """
    if text.lower().endswith(".json") or Path(text).is_file():
        return load_plan(text)
    plan = plan_of_words(text)
    return replace(plan, batch=text.batch, runtime=text.runtime) if isinstance(text, PlanText) else plan


def plan_of_words(text: str) -> Plan:
    """Return the plan that words say, as `parse_plan` does, but for files: nothing is read that a text names.

    Raises
    ------
    MpsimError
        A word that says nothing of a plan.

    Examples
    --------
    >>> plan_of_words("pp=4 micro-batches=8 gpipe").schedule
    'gpipe'
    """
    fields: dict[str, Any] = {}
    sharding: dict[str, Any] = {}
    try:
        for word, name, value in _read(text):
            into = sharding if name in (*_OF_SHARDING.values(), *_FLAGS.values()) else fields
            if name in into:
                raise MpsimError(f"{word} is given twice: leave one out")
            into[name] = value
        return Plan(**fields, sharding=Sharding(**sharding)) if sharding else Plan(**fields)
    except MpsimError as error:
        raise MpsimError(f"plan {text!r}: {error}") from None


def _read(text: str) -> Iterator[tuple[str, str, Any]]:
    """Yield each word, with the field that it says and its value."""
    words = re.sub(r"(\d) +([kKMGT]i?B\b)", r"\1\2", text).split()  # a size may have a space before its unit
    if not words:
        raise MpsimError(f"it is empty: write {_EXAMPLE!r}")
    for word in words:
        key, equals, value = word.rstrip(",").partition("=")
        if equals:
            yield word, *_said(key.replace("micro-batches", "microbatches"), value)
        else:
            yield word, *_bare(key)


def _said(key: str, value: str) -> tuple[str, Any]:
    """Return the field that ``key=value`` says, and its value."""
    if key in _NUMBERS or key in _COUNTS:
        return _OF_SHARDING.get(key, key), _whole(key, value)
    if key in _LISTS:
        return _LISTS[key], tuple(_whole(key, one) for one in value.split(","))
    if key == "bucket":
        return "bucket_bytes", units.size(value, "bucket")
    if key in _TEXTS or key in _OF_SHARDING:
        return _OF_SHARDING.get(key, key), value
    raise unknown("word", key, [*_NUMBERS, *_LISTS, *_TEXTS, *_OF_SHARDING, *_FLAGS, "bucket"])


def _bare(word: str) -> tuple[str, Any]:
    """Return the field that a word alone says: a schedule, an algorithm, a way of launching, or what replicas do."""
    if word in _FLAGS:
        return _FLAGS[word], True
    if (schedule := as_registered(word)) in SCHEDULES:
        return "schedule", schedule
    if word in LAUNCHES:
        return "launch", word
    algorithms = [AUTO, *algorithm_names("all_reduce")]
    if word.partition(":")[0] in algorithms:
        return "algorithm", word
    raise unknown("word", word, [*SCHEDULES, *LAUNCHES, *_FLAGS, *algorithms, *(f"{name}=" for name in _NUMBERS)])


def _whole(key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise MpsimError(f"{key} {text!r} is not a whole number: write {key}=4")
    return int(text)
