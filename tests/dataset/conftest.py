"""What the tests of datasets share."""

import shutil
from pathlib import Path

import pytest

from curation.dataset import DatasetReport
from tests.dataset.split_runs import build, make_split_run


@pytest.fixture(scope="session")
def split_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a split run over three videos."""
    return make_split_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run_copy(split_run: Path, tmp_path: Path) -> Path:
    """A split run that a test may damage."""
    return Path(shutil.copytree(split_run, tmp_path / "run_copy"))


@pytest.fixture(scope="session")
def built(split_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetReport]:
    """A dataset of it, and its report."""
    output = tmp_path_factory.mktemp("dataset")
    return output / "v0", build(split_run, output)
