"""What tests of real ranks share."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# A rank joins the others, does what it is told, and leaves what it calls `found`.
_RANK = """
import pickle, sys
import torch.distributed as dist
rank, world, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
{work}
with open(out, "wb") as file:
    pickle.dump(found, file)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture
def gloo_ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """A function that runs a piece of Python on ranks joined over loopback, and returns each one's `found`."""

    def run(world: int, work: str, *, patience_s: float = 60) -> list[Any]:
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        outs = [tmp_path / f"out{rank}" for rank in range(world)]
        ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _RANK.format(work=work),
                    str(rank),
                    str(world),
                    str(tmp_path / "store"),
                    str(out),
                ],
                env=environment,
            )
            for rank, out in enumerate(outs)
        ]
        assert [rank.wait(patience_s) for rank in ranks] == [0] * world
        return [pickle.loads(out.read_bytes()) for out in outs]

    return run
