"""What the command line is given in tests."""

from pathlib import Path

HAND = str(Path(__file__).parents[1] / "data" / "hand.workload.json")
RING = "ring:4,link=eth_10g,memory=1GiB"
