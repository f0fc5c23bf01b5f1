"""Headless Chromium as a player of clips: which picture it shows at which time, and what it says of a file.

A page asks this process for clips over loopback and posts what it saw; nothing else drives the browser.
"""

import base64
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self, cast

import numpy as np
import pytest
from PIL import Image

from tests.patience import PATIENCE_S
from tests.synthetic import Picture

FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # which root has to do without
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--no-first-run",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
)

PAGE: Final = """<!doctype html><meta charset="utf-8"><title>player</title><body><script>
const LIMIT_MS = 20000;

function happens(video, name) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no ${name} in ${LIMIT_MS} ms`)), LIMIT_MS);
    video.addEventListener(name, () => { clearTimeout(late); resolve(); }, {once: true});
    video.addEventListener("error", () => reject(new Error(`${video.error.code}: ${video.error.message}`)));
  });
}

function nextFrame(video) {
  return new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`no frame in ${LIMIT_MS} ms`)), LIMIT_MS);
    video.requestVideoFrameCallback((now, frame) => resolve(frame.mediaTime));
  });
}

async function look(video, time_s) {
  const shown = nextFrame(video), sought = happens(video, "seeked");
  video.currentTime = time_s;
  const [media_time_s] = await Promise.all([shown, sought]);
  const canvas = document.createElement("canvas");
  canvas.width = Math.min(video.videoWidth, 320);
  canvas.height = Math.round(video.videoHeight * canvas.width / video.videoWidth);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return {media_time_s, png: canvas.toDataURL("image/png").split(",")[1]};
}

async function play(video, rate) {
  const times_s = [];
  const note = (now, frame) => { times_s.push(frame.mediaTime); video.requestVideoFrameCallback(note); };
  video.requestVideoFrameCallback(note);
  video.playbackRate = rate;
  const ended = happens(video, "ended");
  await video.play();
  await ended;
  return {times_s, ended_at_s: video.currentTime};
}

async function watch(task, video) {
  const seen = {error: "", shown: [], played: null};
  try {
    const clip = await (await fetch("clip")).blob();
    const loaded = happens(video, "loadeddata"), shown = nextFrame(video);
    video.src = URL.createObjectURL(clip);
    await Promise.all([loaded, shown]);
    Object.assign(seen, {duration_s: video.duration, width: video.videoWidth, height: video.videoHeight});
    if (task.play_rate) seen.played = await play(video, task.play_rate);
    for (const time_s of task.times_s) seen.shown.push(await look(video, time_s));
  } catch (error) {
    seen.error = error.message;
  }
  URL.revokeObjectURL(video.src);
  return JSON.stringify(seen);
}

async function main() {
  for (;;) {
    const task = await (await fetch("task")).json();
    if (task === null) continue;
    const video = document.body.appendChild(document.createElement("video"));
    await fetch("seen", {method: "POST", body: await watch(task, video)});
    video.remove();
  }
}
main();
</script>"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is on the screen after a seek: a picture, at most 320 wide, and its own time by the file."""

    media_time_s: float
    picture: Picture


@dataclass(frozen=True, slots=True)
class Watched:
    """What the player made of a clip.

    Attributes:
        shown: one for each time asked for.
        played_s: the frames that it showed while it played, by their times; as many as it came to.
        ended_at_s: where it ended; None where it was not asked to play.
    """

    duration_s: float
    size: tuple[int, int]
    shown: list[Shown]
    played_s: list[float]
    ended_at_s: float | None


class PlayerError(RuntimeError):
    """The player refused a clip, or did not answer."""


class ChromiumProcess:
    """The program with a profile of its own, until it is ended."""

    def __init__(self, command: Sequence[str], *arguments: str, pass_fds: Sequence[int] = ()) -> None:
        """Start it.

        Args:
            command: the program, or what ends up as it.
            pass_fds: file descriptors that it inherits under the same numbers.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name, "log.txt")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *FLAGS, f"--user-data-dir={self._folder.name}/profile", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    def end(self) -> None:
        """Stop it with all that it started, and remove its profile."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a group of its own
        self._process.wait()
        self._folder.cleanup()

    def describe(self) -> str:
        """Whether it ended, and the last that it wrote."""
        return f"(ended: {self._process.poll()}): {self._log.read_text(errors='replace')[-2000:]}"


class Chromium:
    """A browser with one page, until the end of the ``with`` block."""

    def __init__(self, program: str) -> None:
        """Prepare to run the program."""
        self._program = program
        self._tasks: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._clip = b""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        Thread(target=self._server.serve_forever, daemon=True).start()
        self._process = ChromiumProcess([self._program], f"http://127.0.0.1:{self._server.server_port}/")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.end()
        self._server.shutdown()
        self._server.server_close()

    def watch(self, mp4: bytes, *, times_s: Sequence[float] = (), play_rate: float = 0) -> Watched:
        """Load a clip, play it through at that rate unless it is 0, and look at it at these times in turn.

        Args:
            times_s: each in another frame than the one before, and the first one not in the clip's first frame: where
                the picture stays the same, none is shown anew.

        Raises:
            PlayerError: with the reason of the player.
        """
        self._clip = mp4
        self._tasks.put({"times_s": list(times_s), "play_rate": play_rate})
        try:
            seen = self._answers.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise PlayerError(f"no answer in {PATIENCE_S:g} s {self._process.describe()}") from None
        if seen["error"]:
            raise PlayerError(seen["error"])
        played = seen["played"] or {"times_s": [], "ended_at_s": None}
        shown = [Shown(each["media_time_s"], _picture(each["png"])) for each in seen["shown"]]
        size = seen["width"], seen["height"]
        return Watched(seen["duration_s"], size, shown, played["times_s"], played["ended_at_s"])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        browser = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.strip("/")
                if path == "task":
                    self._send(json.dumps(browser._next_task()).encode(), "application/json")
                elif path == "clip":
                    self._send(browser._clip, "video/mp4")
                elif path == "":
                    self._send(PAGE.encode(), "text/html")
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                browser._answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._send(b"", "text/plain")

            def _send(self, content: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler

    def _next_task(self) -> dict[str, Any] | None:
        """Wait for one, but not so long that the page's request fails."""
        with suppress(queue.Empty):
            return self._tasks.get(timeout=5)
        return None


def _picture(png: str) -> Picture:
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return cast(Picture, np.array(image.convert("RGB")))


def require_chromium() -> str:
    """The program; skip the test where there is none, or fail it: in CI or by CLIPMILL_REQUIRE_CHROMIUM=1."""
    program = shutil.which("chromium")
    if program is not None:
        return program
    reason = "not installed: chromium; on Debian: sh tests/install_packages.sh chromium"
    if os.environ.get("CLIPMILL_REQUIRE_CHROMIUM") == "1" or os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
