"""Real namespaces and real packets: what arrives, and that nothing is left. Times are in benchmarks/fabric.py."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpsim import MpsimError, parse_topology
from mpsim.emulate.fabric import namespaces, open_fabric, opening

STAR = parse_topology("switch:3,bandwidth=1Gbit/s,latency=100us")
PATIENCE_S = 20.0

needs_namespaces = pytest.mark.skipif(bool(namespaces.lacking()), reason=f"needs {namespaces.lacking()}")

LISTEN = """
import hashlib, socket, sys
server = socket.create_server((sys.argv[1], 4000))
print("listening", flush=True)
with server.accept()[0].makefile("rb") as stream:
    print(hashlib.sha256(stream.read()).hexdigest(), flush=True)
"""
SPEAK = """
import random, socket, sys
socket.create_connection((sys.argv[1], 4000)).sendall(random.Random(5).randbytes(2**20 + 3))
"""
LAUNCHER = """
import sys, time
from mpsim import parse_topology
from mpsim.emulate.fabric import open_fabric
with open_fabric("namespaces", parse_topology("switch:2,bandwidth=1Gbit/s,latency=0"), [0, 1]) as fabric:
    import subprocess
    asleep = subprocess.Popen(fabric.command(0, [sys.executable, "-c", "import time; time.sleep(600)"]))
    print(asleep.pid, fabric.command(0, [])[3], fabric.command(1, [])[3], flush=True)
    time.sleep(600)
"""


def names_of(fabric, ranks=2):
    return [fabric.command(i, [])[3] for i in range(ranks)]


def there(names):
    return [name for name in names if Path("/run/netns", name).exists()]


def runs(pid):
    """Whether a process has not ended; one that nobody has reaped yet, as the machine's first should, has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(names, pids=()):
    deadline_s = time.monotonic() + PATIENCE_S
    while there(names) or any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline_s, f"left behind: {there(names)}, of processes {pids}"
        time.sleep(0.05)


@needs_namespaces
def test_every_byte_arrives_and_nothing_is_left():
    with open_fabric("namespaces", STAR, [2, 0]) as fabric:
        names = names_of(fabric)
        assert there(names) == names
        assert "2 network namespaces" in fabric.description
        command = fabric.command(1, [sys.executable, "-c", LISTEN, fabric.address(1)])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout.readline() == "listening\n"
            speak = fabric.command(0, [sys.executable, "-c", SPEAK, fabric.address(1)])
            subprocess.run(speak, check=True, timeout=PATIENCE_S)
            assert (
                listener.stdout.readline().strip() == hashlib.sha256(random.Random(5).randbytes(2**20 + 3)).hexdigest()
            )
        fabric.check()
    assert there(names) == []


@needs_namespaces
def test_a_rank_has_only_its_own_interface_and_the_host_keeps_its_settings():
    setting = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    before = setting.read_text(), sorted(os.listdir("/sys/class/net"))
    with open_fabric("namespaces", STAR, [0, 1, 2]) as fabric:
        look = f"import socket; print(socket.if_nameindex(), open({str(setting)!r}).read())"
        seen = subprocess.run(fabric.command(2, [sys.executable, "-c", look]), capture_output=True, text=True).stdout
        assert fabric.interface(2) in seen
        assert "reno" in seen
        assert "eth" not in seen
        assert len({fabric.address(i) for i in range(3)}) == 3
    assert (setting.read_text(), sorted(os.listdir("/sys/class/net"))) == before


@needs_namespaces
def test_an_exception_in_the_block_takes_everything_down_and_passes_through():
    seen = []

    def fail():
        with open_fabric("namespaces", STAR, [0, 1]) as fabric:
            command = fabric.command(1, ["sh", "-c", "echo inside; exec sleep 600"])
            asleep = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert asleep.stdout.readline() == "inside\n"  # one that is not yet there fails by itself
            seen.append((names_of(fabric), asleep))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    ((names, asleep),) = seen
    assert there(names) == []
    assert asleep.wait(PATIENCE_S) == -signal.SIGKILL


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_launchers_death_takes_everything_down(number):
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as launcher:
        pid, *names = launcher.stdout.readline().split()
        assert there(names) == names
        launcher.send_signal(number)
        launcher.wait(PATIENCE_S)
        wait_until_gone(names, [pid])


@needs_namespaces
def test_the_switchs_death_is_told_and_leaves_nothing():
    with open_fabric("namespaces", STAR, [0, 1]) as fabric:
        names = names_of(fabric)
        assert there(names) == names
        fabric._keeper.kill()
        fabric._keeper.wait(PATIENCE_S)
        with pytest.raises(MpsimError, match="switch's process ended"):
            fabric.check()
    assert there(names) == []


@needs_namespaces
def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept():
    with subprocess.Popen(["true"]) as dead:
        pass
    leftover, living = f"mpsim-{dead.pid}-1-0", namespaces.name_of(os.getpid(), 0)
    try:
        for name in (leftover, living):
            subprocess.run(["ip", "netns", "add", name], check=True)
        with open_fabric("namespaces", STAR, [0, 1]):
            assert there([leftover, living]) == [living]
        assert there([living]) == [living]
    finally:
        for name in there([leftover, living]):
            subprocess.run(["ip", "netns", "del", name], check=True)


@needs_namespaces
def test_two_fabrics_at_once_do_not_meet():
    with open_fabric("namespaces", STAR, [0, 1]) as one, open_fabric("namespaces", STAR, [0, 1]) as two:
        assert not set(names_of(one)) & set(names_of(two))
        assert len(there(names_of(one) + names_of(two))) == 4


@pytest.mark.parametrize("lack", ["root", "the command 'ip' (Debian: apt install iproute2)"])
def test_what_namespaces_need_is_said_with_the_way_out(monkeypatch, lack):
    monkeypatch.setattr(opening, "lacking", lambda: lack)
    with pytest.raises(MpsimError) as caught, open_fabric("namespaces", STAR, [0, 1]):
        pass
    message = str(caught.value)
    assert lack in message
    assert "--fabric host" in message
    assert "\n" not in message


def test_loopback_needs_nothing():
    with open_fabric("host", STAR, [0, 1]) as fabric:
        assert fabric.command(0, ["python", "x.py"]) == ["python", "x.py"]
        assert (fabric.address(1), fabric.interface(1)) == ("127.0.0.1", "lo")
        fabric.check()


def test_an_unknown_fabric_is_refused():
    with pytest.raises(MpsimError, match="did you mean 'namespaces'"), open_fabric("namespace", STAR, [0]):
        pass
