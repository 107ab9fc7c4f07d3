"""Which files of published figures are known, and what replays each."""

from __future__ import annotations

from mpsim.validate.published.bridge import BRIDGE
from mpsim.validate.published.megatron import MEGATRON_2021, MEGATRON_2022, MEGATRON_BLOCK
from mpsim.validate.published.model import Adapter
from mpsim.validate.published.neusight import NEUSIGHT
from mpsim.validate.published.sailor import SAILOR
from mpsim.validate.published.simumax import SIMUMAX
from mpsim.validate.published.torchgpipe import TORCHGPIPE_MEMORY, TORCHGPIPE_SPEED
from mpsim.validate.published.torchtitan import TORCHTITAN
from mpsim.validate.published.vocabulary import VOCABULARY
from mpsim.validate.published.zero_bubble import ZERO_BUBBLE

__all__ = ["ADAPTERS", "INPUTS"]

ADAPTERS: dict[str, Adapter] = {
    one.file: one
    for one in (
        VOCABULARY,
        ZERO_BUBBLE,
        SAILOR,
        NEUSIGHT,
        MEGATRON_BLOCK,
        MEGATRON_2022,
        MEGATRON_2021,
        SIMUMAX,
        TORCHTITAN,
        BRIDGE,
        TORCHGPIPE_SPEED,
        TORCHGPIPE_MEMORY,
    )
}
# Files that others are predicted from, and that have no steps of their own.
INPUTS = frozenset(
    {
        "zero_bubble_profiled_times", "sailor_layer_profiles", "sailor_layer_sizes", "sailor_network_fits",
        "neusight_op_profiles", "simumax_system_efficiencies",
    }
)  # fmt: skip
