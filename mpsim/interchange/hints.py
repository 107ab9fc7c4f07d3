"""What mpsim adds to a Chakra trace so that it can be replayed exactly, beyond what the schema has a place for.

Chakra has no streams, whole microseconds only, and no traffic by link. Each of these stands in an attribute of a node
(or of the file) whose name begins with ``mpsim_``; other tools ignore them. What a trace's links carried is used again
only on a topology with the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json

from mpsim import documents
from mpsim.topology.model import Topology

__all__ = [
    "AFTER_BUFFERED",
    "AXIS",
    "BUFFERED",
    "BYTES",
    "DEPENDENCY",
    "DURATION",
    "GROUPS",
    "KIND",
    "LATENCY",
    "LINKS",
    "LINK_BYTES",
    "MICROBATCH",
    "NOTHING",
    "ROUNDS",
    "SLOTS",
    "STAGE",
    "STREAMS",
    "STREAM_NAMES",
    "TOPOLOGY",
    "fingerprint",
]

# Of a file: the topology that the program was lowered on.
TOPOLOGY = "mpsim_topology"
# Of a file: the ranks of the process groups that this rank is in, as ASTRA-sim's file of groups has them.
GROUPS = "mpsim_groups"
# The streams that a task is queued on at this rank: numbers in the program, names, slots.
STREAMS, STREAM_NAMES, SLOTS = "mpsim_streams", "mpsim_stream_names", "mpsim_slots"
# What results call a task.
KIND, AXIS, STAGE, MICROBATCH = "mpsim_kind", "mpsim_axis", "mpsim_stage", "mpsim_microbatch"
# Seconds, where they are no whole microseconds.
DURATION = "mpsim_duration_s"
# What a transfer puts on the network, at its first rank only.
LATENCY, LINKS, LINK_BYTES, ROUNDS = "mpsim_latency_s", "mpsim_links", "mpsim_link_bytes", "mpsim_rounds"
BYTES, BUFFERED = "mpsim_bytes", "mpsim_buffered_bytes"
# Ids of transfers whose sender only must be rid of them.
AFTER_BUFFERED = "mpsim_after_buffered"
# A message that stands for nothing but a dependency between two ranks.
DEPENDENCY = "mpsim_dependency"

# The only node of a rank that has nothing to do: no file may be without one.
NOTHING = "mpsim_nothing"


def fingerprint(topology: Topology) -> str:
    """Return what two topologies share only if the same traffic is the same on both.

    Examples
    --------
    >>> from mpsim.topology.builders import ring
    >>> fingerprint(ring(4, link="50GB/s@2us")) == fingerprint(ring(4, link="50GB/s@3us"))
    False
    """
    whole = documents.encode(topology)
    kept = {name: whole.get(name) for name in ("devices", "switches", "links")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
