"""A real browser, headless: Chromium, told what to do through a pipe; nothing beside the browser is needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-extensions", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE_S = 60.0  # for an answer, on a machine that is busy


class Browser:
    """One page of a browser, what it asked of files and networks, and what it complained of."""

    def __init__(self, inward: int, outward: int) -> None:
        self._in, self._out = inward, outward
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def send(self, method: str, **params: Any) -> Any:
        """Ask something of the browser and return its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._number:
                assert "error" not in heard, heard
                return heard["result"]
            self.events.append(heard)

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select([self._out], [], [], PATIENCE_S)
            assert ready, "the browser says nothing"
            got = os.read(self._out, 1 << 20)
            assert got, "the browser has ended"
            self._rest += got
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found

    def open(self, path: Path, part: str = "", width: int = 1400, scripts: bool = True) -> None:
        """Show a file, and wait until it is loaded."""
        self.resize(width)
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._go("about:blank")  # or another part of the same page would be no page anew
        self.events.clear()
        self._go(path.as_uri() + part)

    def _go(self, address: str) -> None:
        wanted = {"name": "load", "loaderId": self.send("Page.navigate", url=address)["loaderId"]}
        loads = self._told("Page.lifecycleEvent")
        while not any(wanted.items() <= load.items() for load in loads):
            self.events.append(self._hear())
            loads = self._told("Page.lifecycleEvent")

    def _told(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]

    def resize(self, width: int, height: int = 900) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """Prefer ``dark`` or ``light``."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def run(self, code: str) -> Any:
        """Return what an expression of the page's language comes to."""
        found = self.send("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """What it wrote to its console, and what its scripts failed of."""
        return self._told("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")

    @property
    def asked(self) -> list[str]:
        """The addresses that it asked for, but for data that stands in the page itself."""
        addresses = [told["request"]["url"] for told in self._told("Network.requestWillBeSent")]
        return [address for address in addresses if not address.startswith("data:")]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser and end it; skip the test where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed: apt-get install chromium")
    (read, inward), (outward, write) = os.pipe(), os.pipe()
    # The browser takes them for 3 and 4, whatever has these numbers here.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read, write)]

    def give() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    with TemporaryDirectory() as home:
        process = subprocess.Popen(
            [found, *FLAGS, f"--user-data-dir={home}"], preexec_fn=give, pass_fds=(3, 4, *high),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
        )  # fmt: skip
        for end in (read, write, *high):
            os.close(end)
        try:
            one = Browser(inward, outward)
            yield one
            one._session = None
            one.send("Browser.close")
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            os.close(inward)
            os.close(outward)
