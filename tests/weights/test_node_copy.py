import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from curation.weights import copy_node_locally, weights_revision
from tests.hub import checkpoint
from tests.weights.test_folder import COMMIT, mark, place

# prints where the weights are and how many files this process copied; with argv[3] it is killed before that many
CHILD = """
import os, signal, sys
from pathlib import Path
from curation.weights import copy_node_locally

copied = 0

def count(event, arguments):
    global copied
    if event == "shutil.copyfile":
        copied += 1
        if len(sys.argv) > 3 and copied == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
print(copy_node_locally(Path(sys.argv[1]), sys.argv[2]), copied)
"""


def copying(folder: Path, root: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), str(root), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def same_files(folder: Path, other: Path) -> bool:
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return names == {path.relative_to(other) for path in other.rglob("*") if path.is_file()} and all(
        (folder / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def test_all_tasks_of_a_node_get_one_folder_that_one_of_them_copied(tmp_path: Path) -> None:
    folder, root = mark(place(tmp_path / "shared/model")), tmp_path / "local"
    children = [copying(folder, root) for _ in range(8)]
    answers = [child.communicate()[0].rsplit(" ", 1) for child in children]
    assert len({where for where, _ in answers}) == 1
    assert sum(int(copied) for _, copied in answers) == len(checkpoint()) + 1  # and the marker
    assert same_files(folder, Path(answers[0][0]))


def test_a_copy_that_was_killed_half_way_is_never_taken_for_whole(tmp_path: Path) -> None:
    folder, root = place(tmp_path / "shared/model"), tmp_path / "local"
    killed = copying(folder, root, "4")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [path for path in root.iterdir() if not path.name.startswith(".")] == []
    (partial,) = root.glob(".*.partial")
    assert any(partial.iterdir())
    found = copy_node_locally(folder, root)
    assert same_files(folder, found)
    assert not partial.exists()


def test_a_copy_that_is_there_is_used_again(tmp_path: Path) -> None:
    folder, root = mark(place(tmp_path / "shared/model")), tmp_path / "local"
    first = copy_node_locally(folder, root)
    written = first.stat().st_ctime_ns
    assert copy_node_locally(folder, root) == first
    assert first.stat().st_ctime_ns == written
    assert weights_revision(first) == COMMIT


def test_a_copy_that_lost_a_file_is_made_anew(tmp_path: Path) -> None:
    folder, root = place(tmp_path / "shared/model"), tmp_path / "local"
    (copy_node_locally(folder, root) / "config.json").unlink()
    assert same_files(folder, copy_node_locally(folder, root))


def test_other_weights_get_another_folder(tmp_path: Path) -> None:
    one = place(tmp_path / "one/model")
    two = place(tmp_path / "two/model", {**checkpoint(), "config.json": b'{"model_type": "other"}'})
    assert copy_node_locally(one, tmp_path / "local") != copy_node_locally(two, tmp_path / "local")


def test_a_model_that_was_trained_further_is_copied_again_though_all_its_sizes_are_the_same(tmp_path: Path) -> None:
    folder, root = place(tmp_path / "shared/model"), tmp_path / "local"
    copy_node_locally(folder, root)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9] + bytes(9))
    assert same_files(folder, copy_node_locally(folder, root))


def test_without_enough_room_weights_are_read_from_where_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, root = place(tmp_path / "shared/model"), tmp_path / "local"
    (folder / "more.bin").touch()
    os.truncate(folder / "more.bin", shutil.disk_usage(tmp_path).free + 10**10)  # takes no room itself
    with caplog.at_level(logging.WARNING):
        assert copy_node_locally(folder, root) == folder
    assert "GB free, the weights take" in caplog.text
    assert [path for path in root.iterdir() if path.is_dir()] == []


def test_a_place_that_cant_be_written_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = place(tmp_path / "shared/model")
    (tmp_path / "file").touch()
    assert copy_node_locally(folder, tmp_path / "file/local") == folder
    assert "weights are read from where they are" in caplog.text
