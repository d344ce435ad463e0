"""A headless Chromium through chromedriver: what a page asks the network for, what its scripts say, what it shows."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest


class Browser:
    """One page at a time; use as a context manager."""

    def __init__(self, *, width: int = 1200, height: int = 900) -> None:
        self.size = (width, height)

    def __enter__(self) -> Self:
        chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            pytest.skip("needs chromium and chromedriver")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._address = f"http://127.0.0.1:{port}"
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={self._profile.name}", f"--window-size={self.size[0]},{self.size[1]}",
        ]  # fmt: skip
        options = {"binary": chromium, "args": arguments, "perfLoggingPrefs": {"enableNetwork": True}}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._wait_for_driver()
        self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        return self

    def __exit__(self, *rest: object) -> None:
        try:
            self._call("DELETE", f"/session/{self._session}")
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=20)
            self._profile.cleanup()

    def open(self, path: Path) -> None:
        self._call("POST", f"/session/{self._session}/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that the body of a function returns in the page."""
        return self._call("POST", f"/session/{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def emulate(self, *, width: int, height: int, scheme: str = "light", media: str = "screen") -> None:
        """Another window, colour scheme or medium for the same page."""
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._command("Emulation.setDeviceMetricsOverride", device)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ("rawKeyDown", "keyUp"):
                self._command("Input.dispatchKeyEvent", {"type": kind, "key": key, "windowsVirtualKeyCode": 0})

    def swipe(self, selector: str, *, from_share: float, to_share: float) -> None:
        """A finger across the first such element, at half its height, between two shares of its width."""
        self._command("Emulation.setTouchEmulationEnabled", {"enabled": True})
        script = """const node = document.querySelector(arguments[0]);
            node.scrollIntoView({block: 'center'});
            const box = node.getBoundingClientRect();
            return [box.left, box.top, box.width, box.height]"""
        left, top, width, height = self.run(script, selector)
        across = [left + width * (from_share + k / 5 * (to_share - from_share)) for k in range(6)]
        for kind, places in (("touchStart", across[:1]), *(("touchMove", [x]) for x in across[1:]), ("touchEnd", [])):
            points = [{"x": x, "y": top + height / 2} for x in places]
            self._command("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def complaints(self) -> list[str]:
        """Errors and warnings of the page's scripts and of the browser about the page."""
        entries = self._call("POST", f"/session/{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, but for those that need no network."""
        entries = self._call("POST", f"/session/{self._session}/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        asked = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        # The browser's own start page asks for things too.
        addresses = [params["request"]["url"] for params in asked if params["documentURL"].startswith("file:")]
        return [address for address in addresses if not address.startswith(("data:", "file:", "blob:"))]

    def _command(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._call("POST", f"/session/{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _wait_for_driver(self) -> None:
        for _ in range(200):
            try:
                if self._call("GET", "/status")["ready"]:
                    return
            except OSError:
                time.sleep(0.1)
        pytest.fail("chromedriver did not start within 20 s")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
