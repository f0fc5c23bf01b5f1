"""A model hub on this machine: a real HTTP server that speaks what huggingface_hub asks for, and can misbehave."""

import hashlib
import json
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

_LFS = (".safetensors", ".bin", ".pth")


@dataclass
class FakeHub:
    """Repositories with their files; used in a ``with``.

    Attributes:
        cut: bytes of a file after which its download breaks off, once.
        wrong: files that are served with a byte that is not theirs.
        stall: files whose second half is not sent before ``go_on`` is set.
        claimed_bytes: sizes of files that the hub tells wrongly.
        error: what every request is refused with: HTTP status and the hub's own name for it.
        num_bytes: served, by file.
    """

    repositories: dict[tuple[str, str], Mapping[str, bytes]] = field(default_factory=dict)
    commits: dict[tuple[str, str], str] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    stall: set[str] = field(default_factory=set)
    claimed_bytes: dict[str, int] = field(default_factory=dict)
    error: tuple[int, str] | None = None
    num_bytes: Counter[str] = field(default_factory=Counter)
    num_requests: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def add(self, repository: str, files: Mapping[str, bytes], *, commit: str | None = None) -> str:
        """A repository's files; gives their commit, which ``main`` means from now on."""
        commit = commit or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.repositories[repository, commit] = files
        self.commits[repository, commit] = self.commits[repository, "main"] = commit
        return commit

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeHub":
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.state.num_requests += 1
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.state.error is not None:
            return self._refuse(*self.state.error)
        if len(parts) < 4:
            return self._refuse(404, "")
        if parts[:2] == ["api", "models"]:
            repository, question, revision = "/".join(parts[2:4]), parts[4], parts[5]
        else:
            repository, question, revision = "/".join(parts[:2]), parts[2], parts[3]
        if (repository, "main") not in self.state.commits:
            return self._refuse(401, "RepoNotFound")
        commit = self.state.commits.get((repository, revision))
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        files = self.state.repositories[repository, commit]
        if question == "resolve":
            return self._file(commit, "/".join(parts[4:]), files)
        if question == "tree":
            return self._json([_tree_entry(name, content) for name, content in files.items()])
        siblings = [_sibling(name, content) for name, content in files.items()]
        for each in siblings:
            each["size"] = self.state.claimed_bytes.get(str(each["rfilename"]), each["size"])
        return self._json({"id": repository, "modelId": repository, "sha": commit, "siblings": siblings})

    def _refuse(self, status: int, name: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", name)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, commit: str, name: str, files: Mapping[str, bytes]) -> None:
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        content = files[name]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_etag(name, content)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._body(name, content, start)
        return None

    def _body(self, name: str, content: bytes, start: int) -> None:
        if name in self.state.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        end = self.state.cut.pop(name, len(content))
        if name in self.state.stall and not self.state.go_on.is_set():
            self._send(name, content[start : len(content) // 2])
            self.state.stalled.set()
            self.state.go_on.wait()
            start = max(start, len(content) // 2)
        self._send(name, content[start:end])
        self.close_connection = self.close_connection or end < len(content)

    def _send(self, name: str, content: bytes) -> None:
        try:
            for begin in range(0, len(content), 65_536):
                block = content[begin : begin + 65_536]
                self.wfile.write(block)
                self.state.num_bytes[name] += len(block)
        except OSError:  # whoever asked is gone
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _etag(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if name.endswith(_LFS) else _git_sha1(content)


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": _git_sha1(content)}
    if name.endswith(_LFS):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _tree_entry(name: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _git_sha1(content)}
    if name.endswith(_LFS):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def checkpoint(*, num_shards: int = 2, shard_bytes: int = 300_000, model_type: str = "qwen2_5_vl") -> dict[str, bytes]:
    """The files of a small checkpoint whose safetensors say their sizes truly."""
    shards = {
        f"model-{number:05d}-of-{num_shards:05d}.safetensors": _safetensors(number, shard_bytes)
        for number in range(1, num_shards + 1)
    }
    weight_map = {f"layer.{number}": name for number, name in enumerate(shards, start=1)}
    return {
        "config.json": json.dumps({"model_type": model_type}).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
        **shards,
    }


def _safetensors(number: int, num_bytes: int) -> bytes:
    header = {f"layer.{number}": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}
    text = json.dumps(header).encode()
    tensor = hashlib.shake_128(bytes([number])).digest(num_bytes)
    return struct.pack("<Q", len(text)) + text + tensor
