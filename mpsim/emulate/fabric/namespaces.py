"""Network namespaces of our own: made, set up, listed and removed; nothing outside them is touched."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
from pathlib import Path

from mpsim.emulate.fabric.wiring import HEADER_BYTES, Host
from mpsim.errors import MpsimError

__all__ = ["INTERFACE", "VNET_HEADER_BYTES", "lacking", "make", "name_of", "remove", "remove_leftovers"]

INTERFACE = "mpsim0"
VNET_HEADER_BYTES = 10  # struct virtio_net_hdr, before each packet: it carries "checksum not computed" across.
_MADE_BY = re.compile(r"mpsim-(\d+)-(\d+)-\d+")
_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF, _TUNSETOFFLOAD = 0x4004_54CA, 0x4004_54D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM = 0x01
_QUEUE_PACKETS = 100_000  # TCP's send buffers bound what waits; the device itself must drop nothing.


def lacking() -> str:
    """Return what this machine lacks for namespaces, in words; empty if nothing."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "root"
    if shutil.which("ip") is None:
        return "the command 'ip' (Debian: apt install iproute2)"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun (modprobe tun)"
    return ""


def name_of(keeper_pid: int, position: int) -> str:
    """Return the name of a rank's namespace: it carries the process that keeps it, and when that one started."""
    return f"mpsim-{keeper_pid}-{_started(keeper_pid)}-{position}"


def make(name: str, host: Host) -> int:
    """Make a rank's namespace and return the descriptor of its end of the switch.

    TCP inside is reno with the whole window from the start, an acknowledgement for each packet and no slow start
    after a pause: a message takes latency + bytes / bandwidth, as the simulator has it.
    """
    _ip("netns", "add", name)
    descriptor = _inside(name, host)
    routes = "".join(
        f"route add {other}/32 dev {INTERFACE} src {host.address} mtu lock {route.mtu_bytes} "
        f"advmss {route.mtu_bytes - HEADER_BYTES + 12} initcwnd {route.window_packets} "
        f"initrwnd {route.window_packets} quickack 1\n"
        for other, route in host.routes.items()
    )
    mtu = max((route.mtu_bytes for route in host.routes.values()), default=1500)
    _ip(
        "-n",
        name,
        "-batch",
        "-",
        input=f"link set lo up\nlink set {INTERFACE} mtu {mtu} txqueuelen {_QUEUE_PACKETS}\n"
        f"addr add {host.address}/32 dev {INTERFACE}\nlink set {INTERFACE} up\n{routes}",
    )
    return descriptor


def remove(name: str) -> None:
    """End what still runs in a namespace and remove it; nothing happens if there is none."""
    if not Path("/run/netns", name).exists():
        return
    # Another may be at it too, the launcher or its switch's process; and it may be half made.
    with contextlib.suppress(MpsimError):
        for pid in _ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(MpsimError):
        _ip("netns", "del", name)


def remove_leftovers() -> None:
    """Remove the namespaces of those whose process is dead, or another by now."""
    folder = Path("/run/netns")
    for path in folder.iterdir() if folder.exists() else ():
        made_by = _MADE_BY.fullmatch(path.name)
        if made_by is not None and _started(int(made_by[1])) != int(made_by[2]):
            remove(path.name)


def _started(pid: int) -> int:
    """Return when a process started, in ticks since boot; 0 if there is none: pids are used again, this is not."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _ip(*arguments: str, input: str = "") -> str:
    done = subprocess.run(["ip", *arguments], input=input, capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[:1] or [f"exit {done.returncode}"]
        raise MpsimError(f"ip {' '.join(arguments)}: {reason[0]}: use --fabric host")
    return done.stdout


def _inside(name: str, host: Host) -> int:
    """Enter a namespace, open its tunnel device, set its TCP, and come back; return the device's descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as home, open(f"/run/netns/{name}") as there:
        _set_namespace(libc, there.fileno())
        try:
            _set_tcp(host)
            return _tunnel()
        finally:
            _set_namespace(libc, home.fileno())


def _set_namespace(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise MpsimError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}: use --fabric host")


def _tunnel() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), flags))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM)
    return descriptor


def _set_tcp(host: Host) -> None:
    send, receive = host.send_buffer_bytes, 4 * host.send_buffer_bytes + 2**20
    settings = {
        "tcp_congestion_control": "reno",
        "tcp_slow_start_after_idle": "0",
        "tcp_no_metrics_save": "1",
        "tcp_autocorking": "0",
        "tcp_wmem": f"4096 {send} {send}",
        "tcp_rmem": f"4096 {receive} {receive}",
    }
    for setting, value in settings.items():
        Path("/proc/sys/net/ipv4", setting).write_text(value)
    with contextlib.suppress(FileNotFoundError):  # A kernel without IPv6.
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
