"""Builds that are killed (kill -9) and started again: the bytes of an undisturbed build."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from curation.dataset import build_dataset, check_dataset
from curation.storage.local import LocalStorage
from tests.dataset.split_runs import BUNNY, NUMBERED, SETTINGS, chunks_of, make_split_run, rows_in

MANY_TARS = replace(SETTINGS, target_tar_size_mb=0.05, max_tars_per_part=3)
_MOST_STEPS = 400

processes = get_context("forkserver")  # a killed child is forked from a process that has no threads
processes.set_forkserver_preload(["pytest", "tests.dataset.test_kills"])


class KilledStorage(LocalStorage):
    """Storage of a process that is killed at one of its steps: before an object is there, or just after."""

    def __init__(self, root: str, *, steps_left: int) -> None:
        super().__init__(root)
        self.steps_left = steps_left

    def _step(self) -> None:
        if self.steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps_left -= 1

    def write(self, path: str, content: bytes) -> None:
        self._step()
        super().write(path, content)
        self._step()

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        with super().writing(path) as stream:
            yield stream
            stream.flush()
            self._step()
        self._step()

    def delete(self, path: str) -> None:
        self._step()
        super().delete(path)


def build(run: str, output: LocalStorage, videos: str) -> None:
    """Build over the videos whose names begin so; all of them when it is empty."""
    chunks = [chunk for chunk in chunks_of(Path(run), with_metas=True) if chunk["video_id"].startswith(videos)]
    build_dataset(chunks, clips=LocalStorage(run), output=output, settings=MANY_TARS)


def files_of(output: LocalStorage) -> dict[str, bytes]:
    """All objects; what killed writers left aside is none."""
    return {each.path: output.read(each.path) for each in output.list()}


def start(*arguments: Any) -> Any:
    child = processes.Process(target=build, args=arguments)
    child.start()
    return child


@pytest.fixture(scope="module", autouse=True)
def _fork_server_finds_us() -> Iterator[None]:
    """Python 3.11's fork server preloads only what is in PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_split_run(tmp_path_factory.mktemp("run"), clip_s=2.0))


@pytest.fixture(scope="module", params=["new", "extended"])
def begun(request: pytest.FixtureRequest, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a build begins: with nothing, or with a dataset of one of the videos."""
    folder = tmp_path_factory.mktemp("begun") / "datasets"
    folder.mkdir()
    if request.param == "extended":
        build(run, LocalStorage(str(folder)), NUMBERED)
    return folder


@pytest.fixture(scope="module")
def undisturbed(begun: Path, run: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = LocalStorage(str(shutil.copytree(begun, tmp_path_factory.mktemp("undisturbed") / "datasets")))
    build(run, output, "")
    assert check_dataset(output).problems == ()
    return files_of(output)


def test_a_build_that_is_killed_at_any_step_gives_the_same_bytes_when_it_is_started_again(
    begun: Path, undisturbed: dict[str, bytes], run: str, tmp_path: Path
) -> None:
    step = 0
    for number in range(_MOST_STEPS):
        folder = Path(shutil.copytree(begun, tmp_path / str(number)))
        child = start(run, KilledStorage(str(folder), steps_left=step), "")
        child.join()
        output = LocalStorage(str(folder))
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        is_over = files_of(output) == undisturbed
        assert is_over or (folder / "v0/building.json").exists() or number == 0
        build(run, output, "")
        assert files_of(output) == undisturbed, f"killed at step {step}"
        shutil.rmtree(folder)
        step += 1 if number < 12 else 8  # the first steps are those of planning, then they repeat
    else:
        pytest.fail("no build ended")
    assert step > 20


def test_builds_that_are_killed_again_and_again_at_random_moments_give_the_same_bytes(
    begun: Path, undisturbed: dict[str, bytes], run: str, tmp_path: Path
) -> None:
    rng = random.Random(8)
    started = time.monotonic()
    child = start(run, LocalStorage(str(shutil.copytree(begun, tmp_path / "timed"))), "")
    child.join()
    took_s = time.monotonic() - started
    num_killed = 0
    for number in range(6):
        output = LocalStorage(str(shutil.copytree(begun, tmp_path / str(number))))
        for _ in range(3):
            child = start(run, output, "")
            child.join(rng.uniform(0.1, 1.0) * took_s)
            child.kill()
            child.join()
            num_killed += child.exitcode != 0
        build(run, output, "")
        assert files_of(output) == undisturbed
    assert num_killed >= 6


def test_over_other_clips_nothing_of_a_killed_build_is_taken_for_what_it_is_not(
    begun: Path, run: str, tmp_path: Path
) -> None:
    wanted = {key for chunk in chunks_of(Path(run)) if chunk["video_id"] == BUNNY for key in keys_of(chunk)}
    assert wanted
    for steps_left in range(6, 36, 6):
        folder = shutil.copytree(begun, tmp_path / str(steps_left))
        child = start(run, KilledStorage(str(folder), steps_left=steps_left), "")
        child.join()
        assert child.exitcode == -signal.SIGKILL
        output = LocalStorage(str(folder))
        build(run, output, BUNNY)
        assert check_dataset(output).problems == ()
        assert {row["key"] for row in rows_in(folder / "v0/catalogue.parquet")} == wanted


def keys_of(chunk: Mapping[str, Any]) -> list[str]:
    return [f"{entry['uuid']}_{start}_{end}" for entry in chunk["clips"] for start, end in entry["windows"]]
