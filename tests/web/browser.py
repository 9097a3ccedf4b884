"""A headless Chromium, driven by chromedriver's HTTP (W3C WebDriver) with nothing but the standard library."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-dev-shm-usage".split()
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's name for an element


def missing() -> str:
    """What is not there, or nothing."""
    there = {"chromium": chromium(), "chromedriver": shutil.which("chromedriver")}
    return " and ".join(f"no {name}" for name, path in there.items() if path is None)


def chromium() -> str | None:
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Browser:
    """One window; elements are named by CSS selectors."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 1400) -> None:
        flags = [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"]
        self._options = {"binary": chromium(), "args": flags}

    def __enter__(self) -> Browser:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._driver = subprocess.Popen(["chromedriver", f"--port={self._port}"], stdout=subprocess.DEVNULL)
        self._session = ""
        until(self._alive, 30, "chromedriver")
        asked = {"goog:chromeOptions": self._options, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
        found = self._call("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
        self._session = f"/session/{found['sessionId']}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._session:
                self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(20)

    def open(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def script(self, text: str, *values: Any) -> Any:
        return self._call("POST", f"{self._session}/execute/sync", {"script": text, "args": list(values)})

    def there(self, selector: str) -> bool:
        return bool(self.script("return document.querySelector(arguments[0]) !== null", selector))

    def text(self, selector: str) -> str:
        found = self.script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
        return str(found)

    def click(self, selector: str) -> None:
        self._of(selector, "click", {})

    def type(self, selector: str, text: str) -> None:
        """Into a field; the path of a file into a place for files."""
        self._of(selector, "value", {"text": text})

    def requested(self) -> list[str]:
        """The addresses that were asked for since the last call, those that were refused too."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Of the page's console since the last call."""
        return [entry["message"] for entry in self._log("browser")]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("POST", f"{self._session}/se/log", {"type": kind})
        return found

    def _of(self, selector: str, what: str, body: dict[str, Any]) -> None:
        element = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"{self._session}/element/{element[ELEMENT]}/{what}", body)

    def _alive(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


def until(done: Callable[[], object], seconds: float, what: str) -> None:
    """Waits for it; fails after so long."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)
