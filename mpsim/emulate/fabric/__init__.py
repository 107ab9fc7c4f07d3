"""The fabric: real links of a topology's bandwidths and latencies between processes of one machine."""

from mpsim.emulate.fabric.opening import Fabric, open_fabric

__all__ = ["Fabric", "open_fabric"]
