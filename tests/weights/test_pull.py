import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants

from curation.weights import PullError, find_weights_folder, pull, weights_revision
from curation.weights.hub import needed_files
from curation.weights.marker import MARKER_NAME
from tests.hub import FakeHub, checkpoint

REPOSITORY = "maker/model-7B"
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that this process and its children ask."""
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it was read from the environment at import
        yield hub


def pulling(revision: str, model_dir: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from curation.weights import pull; pull(*sys.argv[1:])"
    command = [sys.executable, "-c", code, REPOSITORY, revision, str(model_dir)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])


def assert_holds(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        assert (folder / name).read_bytes() == content


def test_a_pull_gives_exactly_the_hubs_bytes_and_marks_them_with_their_commit(hub: FakeHub, tmp_path: Path) -> None:
    files = checkpoint()
    commit = hub.add(REPOSITORY, files)
    folder = pull(REPOSITORY, commit, tmp_path)
    assert folder == tmp_path / REPOSITORY == find_weights_folder(tmp_path, REPOSITORY, revision=commit)
    assert_holds(folder, files)
    assert weights_revision(folder) == commit


def test_a_name_of_a_revision_is_written_down_as_the_commit_that_it_meant(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.add(REPOSITORY, checkpoint())
    assert weights_revision(pull(REPOSITORY, "main", tmp_path)) == commit


def test_a_second_pull_asks_the_hub_nothing(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.add(REPOSITORY, checkpoint())
    pull(REPOSITORY, commit, tmp_path)
    asked = hub.num_requests
    pull(REPOSITORY, commit, tmp_path)
    assert hub.num_requests == asked


def test_a_download_that_breaks_off_goes_on_where_it_was(hub: FakeHub, tmp_path: Path) -> None:
    files = checkpoint(num_shards=1, shard_bytes=25_000_000)  # huggingface_hub goes on at whole blocks of 10 MiB
    commit = hub.add(REPOSITORY, files)
    shard = "model-00001-of-00001.safetensors"
    hub.cut[shard] = 22_000_000
    assert_holds(pull(REPOSITORY, commit, tmp_path), files)
    assert 25_000_000 < hub.num_bytes[shard] < 27_000_000


def test_a_pull_that_was_killed_goes_on_with_the_files_that_it_had(hub: FakeHub, tmp_path: Path) -> None:
    files = checkpoint(num_shards=4)
    commit = hub.add(REPOSITORY, files)
    hub.stall.add("model-00004-of-00004.safetensors")
    child = pulling(commit, tmp_path)
    assert hub.stalled.wait(60)
    while not all((tmp_path / REPOSITORY / name).exists() for name in files if name not in hub.stall):
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    hub.go_on.set()
    assert not (tmp_path / REPOSITORY / MARKER_NAME).exists()
    with pytest.raises(FileNotFoundError, match="lacks model-00004"):
        find_weights_folder(tmp_path, REPOSITORY)
    folder = pull(REPOSITORY, commit, tmp_path)
    assert_holds(folder, files)
    assert hub.num_bytes.total() < 1.5 * sum(map(len, files.values()))
    assert not list(folder.rglob("*.incomplete"))


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_wrong_bytes_are_refused_by_name_and_not_left_for_the_next_pull(
    hub: FakeHub, tmp_path: Path, name: str
) -> None:
    files = checkpoint()
    commit = hub.add(REPOSITORY, files)
    hub.wrong.add(name)
    with pytest.raises(PullError, match=f"{name} did not arrive as the hub describes it"):
        pull(REPOSITORY, commit, tmp_path)
    folder = tmp_path / REPOSITORY
    assert not (folder / name).exists()
    assert not (folder / MARKER_NAME).exists()
    hub.wrong.clear()
    assert_holds(pull(REPOSITORY, commit, tmp_path), files)


def test_two_pulls_at_once_download_once(hub: FakeHub, tmp_path: Path) -> None:
    files = checkpoint()
    commit = hub.add(REPOSITORY, files)
    hub.stall.add(SHARD)
    children = [pulling(commit, tmp_path) for _ in range(2)]
    assert hub.stalled.wait(60)
    hub.go_on.set()
    assert [child.wait(60) for child in children] == [0, 0]
    assert hub.num_bytes == {name: len(content) for name, content in files.items()}


def test_verify_finds_bytes_that_changed_on_the_disk_and_fetches_them_again(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = checkpoint()
    commit = hub.add(REPOSITORY, files)
    folder = pull(REPOSITORY, commit, tmp_path)
    (folder / SHARD).write_bytes(bytes(len(files[SHARD])))
    with caplog.at_level(logging.WARNING):
        pull(REPOSITORY, commit, tmp_path, verify=True)
    assert_holds(folder, files)
    assert f"damaged file removed path={folder / SHARD}" in caplog.text


def test_a_file_that_was_cut_on_the_disk_is_fetched_again_however_old_it_looks(hub: FakeHub, tmp_path: Path) -> None:
    files = checkpoint()
    commit = hub.add(REPOSITORY, files)
    shard = pull(REPOSITORY, commit, tmp_path) / SHARD
    os.truncate(shard, 1000)
    os.utime(shard, (1, 1))
    assert_holds(pull(REPOSITORY, commit, tmp_path), files)


def test_another_revision_takes_the_place_of_the_first_one_and_leaves_nothing_of_it(
    hub: FakeHub, tmp_path: Path
) -> None:
    first = hub.add(REPOSITORY, checkpoint(num_shards=3))
    second = hub.add(REPOSITORY, checkpoint(num_shards=2))
    pull(REPOSITORY, first, tmp_path)
    folder = pull(REPOSITORY, second, tmp_path)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == sorted(
        name for name in checkpoint(num_shards=2) if name.endswith(".safetensors")
    )
    assert set(json.loads((folder / MARKER_NAME).read_bytes())["files"]) == set(checkpoint(num_shards=2))


def test_files_that_a_person_copied_there_are_checked_and_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    files = checkpoint()
    commit = hub.add(REPOSITORY, files)
    folder = tmp_path / REPOSITORY
    folder.mkdir(parents=True)
    (folder / SHARD).write_bytes(files[SHARD])
    assert_holds(pull(REPOSITORY, commit, tmp_path), files)
    assert hub.num_bytes[SHARD] == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param((401, "GatedRepo"), "accept its licence .* set HF_TOKEN", id="gated"),
        pytest.param((401, "RepoNotFound"), "no such repository, or not for you", id="private or not there"),
        pytest.param((403, ""), "set HF_TOKEN", id="a token without the right"),
        pytest.param((404, "RevisionNotFound"), "has no revision", id="no such revision"),
        pytest.param((500, ""), "answered", id="out of order"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_helps(
    hub: FakeHub, tmp_path: Path, error: tuple[int, str], words: str
) -> None:
    hub.error = error
    with pytest.raises(PullError, match=words):
        pull(REPOSITORY, "a" * 40, tmp_path)


def test_a_hub_that_cant_be_reached_is_named(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PullError, match=r"http://127\.0\.0\.1:9 can't be reached .* HTTPS_PROXY"):
        pull(REPOSITORY, "a" * 40, tmp_path)


def test_offline_mode_is_said(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PullError, match="HF_HUB_OFFLINE"):
        pull(REPOSITORY, "a" * 40, tmp_path)


def test_room_is_asked_for_before_anything_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.add(REPOSITORY, checkpoint())
    hub.claimed_bytes[SHARD] = 10**18
    with pytest.raises(PullError, match=r"1000000000\.0 GB to fetch"):
        pull(REPOSITORY, commit, tmp_path)
    assert hub.num_bytes.total() == 0


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        pytest.param(
            ["config.json", "README.md", "model.safetensors", "pytorch_model.bin", "original/consolidated.00.pth"],
            ["config.json", "README.md", "model.safetensors"],
            id="weights once",
        ),
        pytest.param(
            ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "tf_model.h5", "x.gguf"],
            ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
            id="no safetensors",
        ),
        pytest.param(
            ["model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "modeling.py"],
            ["model.safetensors.index.json", "model.safetensors", "modeling.py"],
            id="no index without its files; code of its own",
        ),
    ],
)
def test_of_several_formats_the_best_one_is_fetched(names: list[str], needed: list[str]) -> None:
    assert needed_files(names) == needed
