"""Open a fabric: loopback, or a network namespace for each rank with the topology's links between them."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mpsim.emulate.fabric.namespaces import INTERFACE, lacking, remove, remove_leftovers
from mpsim.emulate.fabric.wiring import Wiring, wire_up
from mpsim.errors import MpsimError, unknown
from mpsim.topology.model import Topology

__all__ = ["FABRICS", "Fabric", "open_fabric"]

FABRICS = ("host", "namespaces")
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """What joins the ranks, while it is open; a rank is named by its position in what `open_fabric` was given.

    Attributes
    ----------
    description : str
        What it is, in a line.
    """

    description: str
    _addresses: tuple[str, ...]
    _namespaces: tuple[str, ...] = ()
    _keeper: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def address(self, i: int) -> str:
        """Return the address that a rank listens on."""
        return self._addresses[i]

    def interface(self, i: int) -> str:
        """Return the interface that has the address, as ``GLOO_SOCKET_IFNAME`` wants it."""
        return INTERFACE if self._namespaces else "lo"

    def command(self, i: int, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` where the rank lives; it keeps the process id of its parent's child."""
        return ["ip", "netns", "exec", self._namespaces[i], *argv] if self._namespaces else list(argv)

    def check(self) -> None:
        """Raise if the links are gone.

        Raises
        ------
        MpsimError
            The process that carries the packets has ended.
        """
        if self._keeper is not None and self._keeper.poll() is not None:
            raise MpsimError(f"the switch's process ended with {self._keeper.returncode} in mid-run: run it again")


@contextlib.contextmanager
def open_fabric(kind: str, topology: Topology, ranks: Sequence[int]) -> Iterator[Fabric]:
    """Join ranks as a topology says, until the block ends.

    Parameters
    ----------
    kind : {"host", "namespaces"}
        ``host`` is plain loopback: what the topology says of links does not count. ``namespaces`` gives each rank a
        network namespace of its own, and a switch in user space carries every packet with the bandwidths and
        latencies of the topology's links; it needs root.
    topology : Topology
    ranks : sequence of int
        The devices that take part, by index.

    Raises
    ------
    MpsimError
        An unknown kind, no such device, or something that namespaces need is missing.

    Examples
    --------
    >>> from mpsim.topology.builders import switch
    >>> with open_fabric("host", switch(2, link="1GB/s@1us"), [0, 1]) as fabric:
    ...     fabric.address(1), fabric.interface(1), fabric.command(1, ["true"])
    ('127.0.0.1', 'lo', ['true'])
    """
    if kind not in FABRICS:
        raise unknown("fabric", kind, FABRICS)
    wiring = wire_up(topology, ranks)
    if kind == "host":
        yield Fabric(description="loopback of this machine", _addresses=("127.0.0.1",) * len(ranks))
        return
    if missing := lacking():
        raise MpsimError(f"the fabric 'namespaces' needs {missing}, which is not here: use --fabric host")
    remove_leftovers()
    # A session of its own: Ctrl-C goes to the launcher, whose end then ends this.
    keeper = subprocess.Popen(
        [sys.executable, "-m", "mpsim.emulate.fabric.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    names: list[str] = []
    try:
        names += _begin(keeper, wiring)
        yield Fabric(
            description=f"{len(names)} network namespaces joined as {topology.name} by a switch in user space",
            _addresses=tuple(host.address for host in wiring.hosts),
            _namespaces=tuple(names),
            _keeper=keeper,
        )
    finally:
        _end(keeper, names)


def _begin(keeper: subprocess.Popen[bytes], wiring: Wiring) -> list[str]:
    """Hand over the wiring and return the names of the namespaces, once they are there."""
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # What it says tells more.
        keeper.stdin.write(pickle.dumps(wiring))
        keeper.stdin.flush()
    verdict, *words = keeper.stdout.readline().decode().split() or ["failed", "the switch's process did not start"]
    if verdict != "ready":
        raise MpsimError(" ".join(words))
    return words[1:]


def _end(keeper: subprocess.Popen[bytes], names: Sequence[str]) -> None:
    """Let the keeper take everything down; where it cannot any more, do so here."""
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        keeper.stdin.close()
    try:
        keeper.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    keeper.stdout.close()
    for name in names:
        remove(name)
