"""Headless Chromium with a page from disk: what it says, asks for, and looks like.

Driven by the DevTools protocol over a pipe: https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import json
import os
import select
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.chromium import ChromiumProcess
from tests.patience import PATIENCE_S

# Chromium reads commands at descriptor 3 and answers at 4
_WITH_PIPE: Final = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 10) for number in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class PageError(RuntimeError):
    """The browser did not answer, or a script of the test failed in the page."""


class ChromiumPage:
    """A browser with one page, until the end of the ``with`` block.

    Attributes:
        complaints: errors and warnings of the console since the page was opened, and what no script caught.
        requests: addresses that the page asked for since then, its own among them, data addresses left out.
    """

    def __init__(self, program: str) -> None:
        """Prepare to run the program."""
        self._program = program
        self._received = b""
        self._num_sent = 0
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        with_pipe = [sys.executable, "-c", _WITH_PIPE, str(commands), str(answers), self._program]
        self._process = ChromiumProcess(with_pipe, "--remote-debugging-pipe", pass_fds=(commands, answers))
        os.close(commands)
        os.close(answers)
        self._session: dict[str, str] = {}
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.end()
        os.close(self._commands)
        os.close(self._answers)

    def open(self, address: str, *, width: int = 1366, height: int = 768, is_dark: bool = False) -> None:
        """Load a page anew into a window of this size; a narrow one is a phone's, with two pixels for one."""
        self.resize(width=width, height=height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._navigate("about:blank")
        self.complaints, self.requests = [], []
        self._navigate(address)

    def resize(self, *, width: int = 1366, height: int = 768) -> None:
        """Change the size of the window."""
        is_phone = width < 600
        scale = 2 if is_phone else 1
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to.

        Raises:
            PageError: it threw something.
        """
        done = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in done:
            raise PageError(_said(done["exceptionDetails"]))
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key that stands for a letter, with the focus where it is."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, **({"text": key} if kind == "keyDown" else {}))

    def write(self, text: str) -> None:
        """Put text where the focus is."""
        self._call("Input.insertText", text=text)

    def paste(self) -> None:
        """Put what the clipboard holds where the focus is."""
        self._call("Input.dispatchKeyEvent", type="keyDown", key="v", code="KeyV", modifiers=2, commands=["paste"])

    def screenshot(self) -> bytes:
        """What is in the window now, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def save_screenshot(self, path: Path) -> None:
        """Write what is in the window now."""
        path.write_bytes(self.screenshot())

    def _navigate(self, address: str) -> None:
        self._loaded = False  # its event can come before the answer
        done = self._call("Page.navigate", url=address)
        if "errorText" in done:
            raise PageError(f"{address}: {done['errorText']}")
        while not self._loaded:
            self._next()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._num_sent += 1
        message = {"id": self._num_sent, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._num_sent:
            pass
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        """The next answer or event; events are noted."""
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self._received:
            ready = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(self._answers, 1 << 20) if ready else b""
            if not piece:
                raise PageError(f"no answer in {PATIENCE_S:g} s {self._process.describe()}")
            self._received += piece
        line, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent" and not said["request"]["url"].startswith("data:"):
            self.requests.append(said["request"]["url"])
        elif event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(_said(said["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(each.get("value", each.get("description"))) for each in said["args"]))
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])


def _said(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
