"""A headless Chromium for tests, driven over the DevTools protocol (chromedevtools.github.io/devtools-protocol).

    with Browser(tmp_path) as browser:
        page = browser.open("http://127.0.0.1:8000/")
        page.type("input[name=text]", "hello")
        page.click("button")
        page.wait_for("document.querySelector('#said li')")
        assert page.complaints == []

Promises: input goes the way of a person's (key and mouse events at the place of the element), so what is hidden,
covered or disabled cannot be used; `wait_for` is told by the page itself when something in it changes; nothing outlives
the `with` block. Refuses: Firefox, downloads, and more than one thread of the test.

A thread of its own reads what the browser sends; `_answered` guards what it hands over.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE = 20.0

NAMES = ("chromium", "chromium-browser", "google-chrome")

# A container has little /dev/shm and no user namespaces; the rest keeps it from phoning home and from asking.
# Whether certificates are checked is looked at with other clients.
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
)

# The condition is looked at whenever something in the document changes, by the browser's own account of it.
WAIT = """
new Promise((resolve) => {
  const met = () => { try { return (%s); } catch { return null; } };
  const look = () => { const value = met(); if (value) { observer.disconnect(); resolve(value); } };
  const observer = new MutationObserver(look);
  observer.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
  look();
}).then((value) => value instanceof Node ? true : value)
"""

# The middle of an element that can be clicked; null when it is not there, disabled, or covered by another.
PLACE = """
(() => {
  const element = document.querySelector(%s);
  if (!element || element.disabled) return null;
  element.scrollIntoView({block: "center"});
  const box = element.getBoundingClientRect();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const hit = document.elementFromPoint(x, y);
  return hit && (element.contains(hit) || hit.contains(element)) ? {x, y} : null;
})()
"""


class BrowserError(AssertionError):
    """The browser refused a command, an expression raised, or nothing came in time."""


def find_chromium() -> str:
    """Where it is; skips the test when there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip("needs a Chromium (Debian: apt-get install chromium)")


class Browser:
    """One Chromium with a profile of its own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "chromium"
        self._folder.mkdir()
        self._number = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self._answered = threading.Condition()
        self._over = False
        self._drain: threading.Thread | None = None
        self._open = contextlib.ExitStack()
        # In a session of its own: it starts a dozen processes, which are ended by their group.
        self._process = subprocess.Popen(
            [find_chromium(), *OPTIONS, f"--user-data-dir={self._folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": str(self._folder), "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            connection = connect(self._address(), max_size=None, compression=None, open_timeout=PATIENCE)
            self._socket = self._open.enter_context(connection)
        except BaseException:
            self._kill()
            raise
        self._reader = threading.Thread(target=self._read, name="browser", daemon=True)
        self._reader.start()

    def _address(self) -> str:
        """Where it listens, as it says on standard error, which is read on so that it never fills."""
        assert self._process.stderr is not None
        said = b""
        for line in self._process.stderr:
            said += line
            if match := re.search(rb"DevTools listening on (ws://\S+)", line):
                self._drain = threading.Thread(
                    target=self._process.stderr.read, name="browser-log", daemon=True
                )
                self._drain.start()
                return match[1].decode()
        raise BrowserError(f"chromium ended: {said.decode(errors='replace')[-2000:]}")

    def open(self, url: str, *, width: int = 1100, height: int = 900) -> Page:
        """A new page (a tab) at `url`, loaded."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        with self._answered:
            self._pages[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.command(f"{domain}.enable")
        page.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        # A page in the background would be throttled, and would not get the keys.
        page.command("Emulation.setFocusEmulationEnabled", enabled=True)
        page.goto(url)
        return page

    def command(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its result."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        with self._answered:
            done = self._answered.wait_for(lambda: number in self._replies or self._over, PATIENCE)
            if not done or number not in self._replies:
                raise BrowserError(
                    f"{method}: {'the browser ended' if self._over else 'no answer'} ({params})"
                )
            reply = self._replies.pop(number)
        if "error" in reply:
            raise BrowserError(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    def _read(self) -> None:
        try:
            for text in self._socket:
                message = json.loads(text)
                with self._answered:
                    if "id" in message:
                        self._replies[message["id"]] = message
                    elif page := self._pages.get(message.get("sessionId", "")):
                        page.take(message["method"], message["params"])
                    self._answered.notify_all()
        except ConnectionClosed, OSError:
            pass
        finally:
            with self._answered:
                self._over = True
                self._answered.notify_all()

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(PATIENCE)
        if self._drain is not None:
            self._drain.join(PATIENCE)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        self._open.close()
        self._reader.join(PATIENCE)


class Page:
    """One tab. `complaints` are the errors that a developer would see in its console, as text, in order."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.complaints: list[str] = []
        self._browser = browser
        self._session = session
        self._loads = 0

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol for this page."""
        return self._browser.command(method, self._session, **params)

    def take(self, method: str, params: dict[str, Any]) -> None:
        """An event. Called by the browser's thread, under its lock."""
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            said = [str(arg.get("value", arg.get("description"))) for arg in params["args"]]
            self.complaints.append(" ".join(said))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.complaints.append(f"{entry['text']} ({entry.get('url', '')})")

    def goto(self, url: str) -> None:
        """Load `url`; BrowserError when it cannot be had."""
        with self._browser._answered:
            before = self._loads
        result = self.command("Page.navigate", url=url)
        if "errorText" in result:
            raise BrowserError(f"{url}: {result['errorText']}")
        self.wait_for_load(before)

    def wait_for_load(self, before: int) -> None:
        """Wait until more pages than `before` were loaded here."""
        answered = self._browser._answered
        with answered:
            if not answered.wait_for(lambda: self._loads > before, PATIENCE):
                raise BrowserError("the page did not finish loading")

    @property
    def loads(self) -> int:
        """How many documents were loaded so far; `wait_for_load` takes it."""
        return self._loads

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression; a promise is awaited."""
        result = self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    def wait_for(self, condition: str) -> Any:
        """The first true value of a JavaScript expression about the document (True for an element)."""
        try:
            return self.evaluate(WAIT % condition)
        except BrowserError as error:
            text = self.evaluate("document.body.innerText")
            raise BrowserError(
                f"never true: {condition}\n{error}\ncomplaints: {self.complaints}\n{text}"
            ) from None

    def text(self, selector: str) -> str:
        """The text of the first element that matches, as it is shown."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Press the left button in the middle of the element."""
        place = self.evaluate(PLACE % json.dumps(selector))
        if place is None:
            raise BrowserError(f"{selector} cannot be clicked: it is not there, disabled, or covered")
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def type(self, selector: str, text: str, *, enter: bool = False) -> None:
        """Click into a field, replace what is there by `text`, and press Enter if wished."""
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.command("Input.insertText", text=text)
        if enter:
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            self.command("Input.dispatchKeyEvent", type="keyDown", **key)
            self.command("Input.dispatchKeyEvent", type="keyUp", **key)

    def attach(self, selector: str, path: Path) -> None:
        """Choose a file for a field that takes one, as in the dialogue that a headless browser does not have."""
        found = self.command("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.command("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def screenshot(self, path: Path) -> None:
        """What is seen now, as a PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))
