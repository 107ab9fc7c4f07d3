"""What other tools write and read: Chakra and Kineto traces, networks of ASTRA-sim, scripts of torch's."""

from mpsim.interchange.astra_network import load_astra_network
from mpsim.interchange.chakra_export import save_chakra, to_chakra
from mpsim.interchange.chakra_import import from_chakra, load_chakra
from mpsim.interchange.kineto import load_kineto
from mpsim.interchange.losses import Losses
from mpsim.interchange.perfetto import load_perfetto
from mpsim.interchange.replay_program import replay_program
from mpsim.interchange.torch_script import torch_script

__all__ = [
    "Losses",
    "from_chakra",
    "load_astra_network",
    "load_chakra",
    "load_kineto",
    "load_perfetto",
    "replay_program",
    "save_chakra",
    "to_chakra",
    "torch_script",
]
