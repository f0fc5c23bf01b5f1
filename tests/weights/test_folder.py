from collections.abc import Mapping
from pathlib import Path

import pytest

from curation.weights import find_weights_folder, weights_bytes, weights_revision
from curation.weights.marker import MARKER_NAME, FileMark, Marker, sha256_of, write_marker
from tests.hub import checkpoint

REPOSITORY = "maker/model-7B"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARD = "model-00002-of-00002.safetensors"


def place(folder: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """Weights as a person puts them there."""
    for name, content in (files or checkpoint()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def mark(folder: Path, *, repository: str = REPOSITORY, revision: str = COMMIT) -> Path:
    """What a pull writes last."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    marks = {name: FileMark((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}
    write_marker(folder, Marker(repository, revision, marks))
    return folder


@pytest.mark.parametrize("place_below", [REPOSITORY, "model-7B", "."])
def test_weights_are_found_by_organisation_and_name_by_name_or_in_the_folder_itself(
    tmp_path: Path, place_below: str
) -> None:
    folder = place(tmp_path / place_below)
    assert find_weights_folder(tmp_path, REPOSITORY).samefile(folder)


def test_missing_weights_are_reported_with_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_weights_folder(tmp_path, REPOSITORY)
    assert f"clipmill models pull --model {REPOSITORY} --model-dir {tmp_path}" in str(caught.value)
    assert f"no config.json in {tmp_path / REPOSITORY}" in str(caught.value)


def test_a_folder_that_lacks_a_shard_of_its_index_is_not_whole_and_says_which(tmp_path: Path) -> None:
    folder = place(tmp_path / REPOSITORY)
    (folder / SHARD).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {SHARD}"):
        find_weights_folder(tmp_path, REPOSITORY)


def test_a_shard_that_ends_before_it_says_is_noticed_without_any_list_of_sizes(tmp_path: Path) -> None:
    folder = place(tmp_path / REPOSITORY)
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[:-1])
    with pytest.raises(FileNotFoundError, match=f"has {len(content) - 1} bytes instead of {len(content)}"):
        find_weights_folder(tmp_path, REPOSITORY)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_one_file_of_weights_needs_no_index(tmp_path: Path, name: str) -> None:
    content = checkpoint()["model-00001-of-00002.safetensors"]
    place(tmp_path / REPOSITORY, {"config.json": b"{}", name: content})
    assert find_weights_folder(tmp_path, REPOSITORY) == tmp_path / REPOSITORY


def test_a_folder_without_weights_is_not_taken(tmp_path: Path) -> None:
    place(tmp_path / REPOSITORY, {"config.json": b"{}", "tokenizer.json": b"{}"})
    with pytest.raises(FileNotFoundError, match=r"neither \*\.safetensors nor \*\.bin"):
        find_weights_folder(tmp_path, REPOSITORY)


def test_the_folder_of_all_models_is_no_model_of_another_type(tmp_path: Path) -> None:
    place(tmp_path, checkpoint(model_type="qwen2_5_vl"))
    assert find_weights_folder(tmp_path, REPOSITORY, model_type="qwen2_5_vl") == tmp_path
    with pytest.raises(FileNotFoundError, match="of the type qwen2_5_vl, not qwen2"):
        find_weights_folder(tmp_path, REPOSITORY, model_type="qwen2")


def test_a_marked_folder_of_another_revision_is_refused_by_both_names(tmp_path: Path) -> None:
    mark(place(tmp_path / REPOSITORY))
    other = "f" * 40
    assert find_weights_folder(tmp_path, REPOSITORY, revision=COMMIT) == tmp_path / REPOSITORY
    with pytest.raises(FileNotFoundError, match=f"at revision {COMMIT}, not {REPOSITORY} at {other}"):
        find_weights_folder(tmp_path, REPOSITORY, revision=other)


def test_a_marked_folder_must_have_every_file_in_its_size(tmp_path: Path) -> None:
    folder = mark(place(tmp_path / REPOSITORY))
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(FileNotFoundError, match=r"lacks tokenizer\.json, or not in its full size"):
        find_weights_folder(tmp_path, REPOSITORY)


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    folder = place(tmp_path / REPOSITORY)
    (folder / MARKER_NAME).write_text('{"repository": ')
    with pytest.raises(FileNotFoundError, match="is damaged"):
        find_weights_folder(tmp_path, REPOSITORY)


def test_provenance_is_the_commit_of_pulled_weights_and_the_content_of_others(tmp_path: Path) -> None:
    pulled = mark(place(tmp_path / "pulled"))
    same, also = place(tmp_path / "same"), place(tmp_path / "also")
    other = place(tmp_path / "other", {**checkpoint(), "config.json": b'{"model_type": "qwen2_5_vl", "other": 1}'})
    assert weights_revision(pulled) == COMMIT
    assert weights_revision(same).startswith("local:")
    assert weights_revision(same) == weights_revision(also) != weights_revision(other)


def test_bytes_are_those_of_the_files_without_what_tools_hide_there(tmp_path: Path) -> None:
    folder = place(tmp_path / "model", {**checkpoint(), ".cache/huggingface/download/x.metadata": b"x" * 99})
    assert weights_bytes(folder) == sum(map(len, checkpoint().values()))
