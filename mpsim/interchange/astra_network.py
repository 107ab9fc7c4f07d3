"""The network files of ASTRA-sim's analytical backends as topologies.

::

    topology: [ Ring, Switch ]      # of each dimension, the innermost first
    npus_count: [ 8, 4 ]
    bandwidth: [ 400.0, 50.0 ]      # GB/s of 2^30 bytes, of one direction of a link
    latency: [ 500.0, 2000.0 ]      # ns of a link

The format is that of ``NetworkParser`` in https://github.com/astra-sim/astra-network-analytical (commit 599a0473).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpsim.calls import checked
from mpsim.documents import Provenance
from mpsim.errors import MpsimError, unknown
from mpsim.files import read_text
from mpsim.interchange.losses import Losses
from mpsim.topology.builders import product
from mpsim.topology.model import Topology
from mpsim.topology.wire import Wire

__all__ = ["load_astra_network"]

_KINDS = {"Ring": "ring", "FullyConnected": "fully_connected", "Switch": "switch"}
_KEYS = ("topology", "npus_count", "bandwidth", "latency")
# ASTRA-sim's "GB" (NetworkFunction.cpp of the same repository).
_GB = 2**30
_MOST = 1e15
_MOST_BYTES, _DEEPEST = 2**20, 20


@checked
def load_astra_network(path: str | Path) -> tuple[Topology, Losses]:
    """Read a network file of ASTRA-sim; device i is its NPU i.

    Raises
    ------
    MpsimError
        No such file, not YAML, a key that is missing, lists of unlike lengths, an unknown building block, or a number
        that cannot be.

    Examples
    --------
    >>> import tempfile
    >>> text = "topology: [ Ring ]\\nnpus_count: [ 4 ]\\nbandwidth: [ 50.0 ]\\nlatency: [ 500.0 ]\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "net.yml")
    ...     _ = path.write_text(text)
    ...     topology, losses = load_astra_network(path)
    >>> len(topology.devices), topology.links[0].bandwidth_bytes_per_s, topology.links[0].latency_s
    (4, 53687091200.0, 5e-07)
    """
    written = _read(path)
    losses = Losses()
    for key in written:
        if key not in _KEYS:
            losses.add("keys that the analytical backends do not read", repr(key))
    try:
        made = _topology(written)
    except MpsimError as error:
        raise MpsimError(f"{path}: {error}") from None
    provenance = Provenance(source=f"ASTRA-sim network file {Path(path).name}")
    return replace(made, name=Path(path).stem, provenance=provenance), losses


def _read(path: str | Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MpsimError("network files need PyYAML, not installed here: pip install 'mpsim[interchange]'") from None
    text = read_text(path, most=_MOST_BYTES)
    try:
        _check_bounds(path, yaml.parse(text, yaml.SafeLoader))
        _check_once(path, yaml.compose(text, yaml.SafeLoader))
        written = yaml.safe_load(text)
    except MpsimError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MpsimError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(written, dict) or not set(_KEYS) & set(written):
        raise MpsimError(f"{path} is no network file of ASTRA-sim: it needs the lists {', '.join(_KEYS)}")
    return written


def _check_bounds(path: str | Path, events: Iterable[Any]) -> None:
    """Refuse an alias, by which a few lines stand for any number, and lists in lists without end."""
    depth = 0
    for event in events:
        depth += {"Start": 1, "End": -1}.get(re.sub(r"^.*?(Start|End|)Event$", r"\1", type(event).__name__), 0)
        if type(event).__name__ == "AliasEvent":
            raise MpsimError(f"{path}, line {event.start_mark.line + 1}: *{event.anchor} stands for what is elsewhere:"
                             " write it out")  # fmt: skip
        if depth > _DEEPEST:
            raise MpsimError(f"{path} is not YAML of a network: lists lie {_DEEPEST} deep in each other and deeper")


def _check_once(path: str | Path, root: Any) -> None:
    """Refuse a key that stands twice, of which YAML's readers take the last."""
    pairs = root.value if root is not None and root.id == "mapping" else []
    for key, count in Counter(str(key.value) for key, _ in pairs).items():
        if count > 1:
            raise MpsimError(f"{path} gives {key} {count} times: keep one of them")


def _topology(written: Mapping[str, Any]) -> Topology:
    kinds = [str(kind) for kind in _list(written, "topology")]
    for kind in kinds:
        if kind not in _KINDS:
            raise unknown("building block", kind, _KINDS)
    counts = [_number(one, "npus_count", 2) for one in _list(written, "npus_count")]
    bandwidths = [_number(one, "bandwidth", 0) for one in _list(written, "bandwidth")]
    latencies = [_number(one, "latency", 0) for one in _list(written, "latency")]
    for key, found in (("npus_count", counts), ("bandwidth", bandwidths), ("latency", latencies)):
        if len(found) != len(kinds):
            raise MpsimError(f"{key} has {len(found)} entries, topology has {len(kinds)}: give one for each dimension")
    for count in counts:
        if count != int(count):
            raise MpsimError(f"npus_count holds {count}, expected a whole number")
    for width in bandwidths:
        if not width:
            raise MpsimError("bandwidth holds 0, expected a number above 0")
    wires = [Wire(width * _GB, delay / 1e9) for width, delay in zip(bandwidths, latencies, strict=True)]
    # The innermost dimension comes first there and last here.
    return product(*map(int, counts[::-1]), kinds=[_KINDS[kind] for kind in kinds[::-1]], links=wires[::-1])


def _list(written: Mapping[str, Any], key: str) -> list[Any]:
    if key not in written:
        raise MpsimError(f"{key} is missing: give a list with one entry for each dimension")
    found = written[key]
    if not isinstance(found, list) or not found:
        raise MpsimError(f"{key} is {found!r}, expected a list such as [ 8, 4 ]")
    return found


def _number(value: Any, key: str, least: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= _MOST or math.isnan(value):
        shown = "more than 10^15" if isinstance(value, int) and value > _MOST else repr(value)
        raise MpsimError(f"{key} holds {shown}, expected a number of {least} or more")
    return float(value)
