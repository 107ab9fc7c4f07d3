"""What other tools write and read: Chakra traces, ASTRA-sim networks, Kineto traces; see ``docs/interchange.md``."""

from mpsim.interchange.astra_network import load_astra_network
from mpsim.interchange.chakra_export import save_chakra, to_chakra
from mpsim.interchange.chakra_import import from_chakra, load_chakra
from mpsim.interchange.losses import Losses

__all__ = ["Losses", "from_chakra", "load_astra_network", "load_chakra", "save_chakra", "to_chakra"]
