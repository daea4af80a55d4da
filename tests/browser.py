"""Headless Chromium over its DevTools pipe: a page as users see it, and keys as they type."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
WHY = "no Chromium on this machine; install Debian's package chromium"


class Browser:
    """A browser with one page."""

    def __init__(self, commands: int, events: int):
        self._commands, self._events = os.fdopen(commands, "wb"), os.fdopen(events, "rb")
        self._count, self._session = 0, ""
        self._read = b""
        self.seen: list[dict[str, Any]] = []  # events
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": params, **session}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        number = self._count
        while (answer := self._next()).get("id") != number:
            self.seen.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, hash_: str = "") -> None:
        """Open a file and wait until it is loaded."""
        for url in ("about:blank", page.resolve().as_uri() + hash_):  # another hash loads nothing
            self.seen.clear()
            self.call("Page.navigate", url=url)
            while not any(one.get("method") == "Page.loadEventFired" for one in self.seen):
                self.seen.append(self._next())

    def run(self, code: str) -> Any:
        """The value of an expression in the page, after what the page still has to draw."""
        frame = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        answer = self.call(
            "Runtime.evaluate",
            expression=f"{frame}.then(() => ({code}))",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, code: str, frames: int = 600) -> None:
        """Wait until an expression in the page is true."""
        for _ in range(frames):
            if self.run(code):
                return
        raise AssertionError(f"never true: {code}")

    def press(self, key: str) -> None:
        """Type one key."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = {"Enter": 13, "Escape": 27}.get(key, 0)
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            key=key,
            windowsVirtualKeyCode=code,
            **({"text": text} if text else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def look(self, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """The size of the window in pixels, and the colours that the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def addresses(self) -> set[str]:
        """What the page asked for since it was opened, without pictures inside it."""
        sent = (one for one in self.seen if one.get("method") == "Network.requestWillBeSent")
        return {
            one["params"]["request"]["url"]
            for one in sent
            if not one["params"]["request"]["url"].startswith("data:")
        }

    def complaints(self) -> list[str]:
        """What went wrong in the page since it was opened: errors, breaches of its policy."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(one["params"]) for one in self.seen if one.get("method") in kinds]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = os.read(self._events.fileno(), 1 << 16)
            assert part, "the browser ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        self._session = ""
        self.call("Browser.close")
        self._commands.close()
        self._events.close()


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Chromium with a new profile in the folder `profile`."""
    assert CHROMIUM is not None
    to_browser, commands = os.pipe()
    events, from_browser = os.pipe()

    def wire() -> None:  # Chromium reads from 3 and writes to 4
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        for number, end in enumerate(ends, 3):
            os.dup2(end, number)

    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    started = subprocess.Popen(
        command,
        close_fds=False,
        preexec_fn=wire,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    one = Browser(commands, events)
    try:
        yield one
    finally:
        one.close()
        started.wait()
