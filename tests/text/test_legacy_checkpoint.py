"""Tensors out of torch's old format are those that torch reads, and nothing but numbers is taken from such a file."""

import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from curation.text.legacy_checkpoint import is_legacy, read_tensors
from tests.text.tiny_t5 import require_transformers


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tensors of several types; two share their numbers, one is a part of another, one is transposed."""
    require_transformers()
    import torch

    torch.manual_seed(0)
    whole = torch.randn(6, 4)
    tensors = OrderedDict(
        first=whole,
        same=whole,
        part=whole[2:4],
        turned=whole.t(),
        half=torch.randn(5).half(),
        brain=torch.randn(3, 2).bfloat16(),
        count=torch.arange(7),
        scalar=torch.tensor(2.5),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
        last=torch.randn(1000),
    )
    path = tmp_path_factory.mktemp("checkpoint") / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def test_each_tensor_is_the_one_that_torch_reads(file: Path) -> None:
    import torch

    expected = torch.load(file, weights_only=True)
    found = dict(read_tensors(file, wanted=lambda _: True))
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name


def test_only_the_wanted_are_read(file: Path, tmp_path: Path) -> None:
    """A file without the bytes of the others is as good: nobody looks at them."""
    without_last = tmp_path / "cut.bin"
    shutil.copy(file, without_last)
    os.truncate(without_last, file.stat().st_size - 1)
    names = list(dict(read_tensors(file, wanted=lambda _: True)))

    def is_read(name: str) -> bool:
        try:
            return set(dict(read_tensors(without_last, wanted=lambda each: each == name))) == {name}
        except ValueError as error:
            return "ends 1 bytes too early" not in str(error)

    # torch writes storages in the order of their addresses, so that any may come last
    unread = [name for name in names if not is_read(name)]
    assert 1 <= len(unread) < len(names)


def test_the_newer_format_is_told_from_the_old_one(file: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"a": torch.ones(2)}, tmp_path / "new.bin")
    assert is_legacy(file)
    assert not is_legacy(tmp_path / "new.bin")
    assert not is_legacy(tmp_path / "nothing.bin")


class _Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch was-here",)


def _of_pickles(path: Path, *contents: object) -> Path:
    path.write_bytes(b"".join(pickle.dumps(each, protocol=2) for each in contents))
    return path


def test_a_file_that_brings_code_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beginning = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    bad = _of_pickles(tmp_path / "bad.bin", *beginning, {"a": _Command()}, [])
    with pytest.raises(ValueError, match=r"it asks for posix\.system"):
        dict(read_tensors(bad, wanted=lambda _: True))
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param([], id="empty"),
        pytest.param([7, 1001], id="another magic number"),
        pytest.param([0x1950A86A20F9469CFC6C, 1001, {"little_endian": False}], id="big-endian"),
        pytest.param([0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}], id="no header"),
        pytest.param([0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, 5, []], id="no dictionary"),
    ],
)
def test_what_is_no_state_dict_says_so(contents: list[object], tmp_path: Path) -> None:
    bad = _of_pickles(tmp_path / "bad.bin", *contents)
    with pytest.raises(ValueError, match="no state dict in torch's old format"):
        dict(read_tensors(bad, wanted=lambda _: True))
