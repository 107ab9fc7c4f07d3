"""What kind of file something is, by what it holds; what is of no kind that is read is called what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpsim.errors import MpsimError
from mpsim.files import read_bytes
from mpsim.interchange.chrome import read_json

__all__ = ["CHAKRA", "KINETO", "MEGATRON", "NETWORK", "PERFETTO", "TORCHTITAN", "is_kineto", "is_ours", "kind_of"]

CHAKRA, NETWORK, KINETO, PERFETTO = "Chakra traces", "an ASTRA-sim network", "a Kineto trace", "a Perfetto trace"
TORCHTITAN, MEGATRON = "torchtitan's TOML", "Megatron's flags"
# Of events that no other tool's traces have; the last is of profilers before torch 1.12.
_CATEGORIES = ("cpu_op", "python_function", "user_annotation", "cuda_runtime", "fwdbwd", "ac2g", "Operator")
_BINARIES = {
    b"\x80": "a pickle, as torch.cuda.memory._dump_snapshot writes",
    b"SQLite format 3": "an SQLite database, as nsys exports",
    b"PK": "a zip archive",
    b"<": "a page of HTML, as torch.profiler's export_memory_timeline writes",
}
_WANTED = "import what export_chrome_trace wrote, or another kind that mpsim import --help names"
_KEYS_SHOWN = 6


def is_ours(trace: Mapping[str, Any]) -> bool:
    """Whether mpsim wrote a trace.

    Examples
    --------
    >>> is_ours({"traceEvents": []}), is_ours({"otherData": dict.fromkeys(("workload", "plan", "made_by", "step_s"))})
    (False, True)
    """
    about = trace.get("otherData")
    return isinstance(about, dict) and {"workload", "plan", "made_by", "step_s"} <= about.keys()


def is_kineto(trace: Mapping[str, Any]) -> bool:
    """Whether torch.profiler wrote a trace: its events are of the kinds that only it records.

    Examples
    --------
    >>> is_kineto({"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "aten::mm"}]})
    True
    """
    events = trace.get("traceEvents")
    return isinstance(events, list) and any(
        isinstance(one, dict) and (one.get("cat") in _CATEGORIES or str(one.get("name", "")).startswith("aten::"))
        for one in events
    )


def kind_of(path: str) -> str:
    """Return which kind of file something is; Chakra's are named by what they begin with, too.

    Raises
    ------
    MpsimError
        It cannot be read, or is of no kind that mpsim imports.

    Examples
    --------
    >>> kind_of("step.0.et"), kind_of("cluster.yml")
    ('Chakra traces', 'an ASTRA-sim network')
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] in ([".yml"], [".yaml"]):
        return NETWORK
    if suffixes[-1:] == [".toml"]:
        return TORCHTITAN
    if ".json" not in suffixes and (".et" in suffixes or not Path(path).is_file()):
        return CHAKRA
    data = read_bytes(path)
    if ".json" in suffixes or data.lstrip()[:1] in (b"{", b"["):
        return _of_json(path, read_json(path))
    for begin, what in _BINARIES.items():
        if data.startswith(begin):
            raise MpsimError(f"{path} is {what}: it tells no layer's time; {_WANTED}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return CHAKRA
    if "npus_count" in text:
        return NETWORK
    if "--micro-batch-size" in text or "--tensor-model-parallel-size" in text:
        return MEGATRON
    if text.strip() and all(one.isprintable() or one.isspace() for one in text):
        raise MpsimError(f"{path} is text that begins with {text.split(None, 1)[0][:40]!r}: {_WANTED}")
    return CHAKRA


def _of_json(path: str, found: Any) -> str:
    if isinstance(found, list) and all(isinstance(one, dict) and "ph" in one for one in found):
        found = {"traceEvents": found}  # the other form of a Chrome trace: events alone
    if not isinstance(found, dict):
        raise MpsimError(f"{path} is {_called(found)}; {_WANTED}")
    if is_ours(found):
        return PERFETTO
    if is_kineto(found) or "schemaVersion" in found:
        return KINETO
    if "npus_count" in found:
        return NETWORK
    raise MpsimError(f"{path} is {_called_object(found)}; {_WANTED}")


def _called(found: Any) -> str:
    """Return what JSON that is no object is."""
    if isinstance(found, list) and (_is_raw_timeline(found) or _is_drawn_timeline(found)):
        return "a memory timeline of torch.profiler's (export_memory_timeline): it tells bytes, and no layer's time"
    if isinstance(found, list):
        return f"JSON with a list of {len(found)} things that are no events of a trace"
    return f"JSON with nothing but {json.dumps(found)[:40]}"


def _is_raw_timeline(found: Sequence[Any]) -> bool:
    """Whether each thing is a moment, an action, bytes and a category."""
    return bool(found) and all(isinstance(one, list) and len(one) == 4 and _are_numbers(one) for one in found)


def _is_drawn_timeline(found: Sequence[Any]) -> bool:
    """Whether it has moments, and bytes by category of each."""
    if len(found) != 2 or not all(isinstance(one, list) for one in found):
        return False
    times, sizes = found
    return (
        len(times) == len(sizes) and _are_numbers(times) and all(isinstance(s, list) and _are_numbers(s) for s in sizes)
    )


def _are_numbers(found: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float) for one in found)


def _called_object(found: Mapping[str, Any]) -> str:
    schema = str(found.get("schema", ""))
    if schema.startswith("mpsim."):
        return f"mpsim's own {schema.removeprefix('mpsim.').split('/')[0]}: there is nothing to import"
    if "chakra" in schema or {"schema", "nodes"} <= found.keys():
        return "an execution trace of PyTorch's: chakra's converter makes Chakra traces of it"
    if {"nccl_version", "results"} <= found.keys():
        return "a log of nccl-tests: mpsim calibrate reads it"
    if isinstance(found.get("traceEvents"), list):
        kinds = dict.fromkeys(str(one.get("cat")) for one in found["traceEvents"] if isinstance(one, dict))
        shown = ", ".join(list(kinds)[:_KEYS_SHOWN]) or "none"
        return f"a Chrome trace of neither torch.profiler nor mpsim: its events' categories are {shown}"
    keys = ", ".join(repr(str(key)[:40]) for key in list(found)[:_KEYS_SHOWN]) or "none"
    return f"JSON of no kind that is known, with the keys {keys}"
