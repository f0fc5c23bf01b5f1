"""T5 vectors out of a chunk's file into a tar's member."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from curation.dataset.plan_files import PlannedSample
from curation.dataset.t5_members import DIMENSIONS, NoVectorsError, T5Members, read_t5_member, t5_member
from curation.storage.local import LocalStorage
from tests.dataset.hand_plans import put_clip

PATH = "t5_xxl/v0/video_0.npy"
VECTORS = np.random.default_rng(5).standard_normal((9, DIMENSIONS)).astype(np.float16)


@pytest.fixture
def clips(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(str(tmp_path))
    stream = io.BytesIO()
    np.save(stream, VECTORS)
    storage.write(PATH, stream.getvalue())
    return storage


def sample(clips: LocalStorage, first: int | None, num: int | None, path: str | None = PATH) -> PlannedSample:
    return put_clip(clips, "a", b"mp4", t5_path=path, t5_first_row=first, t5_num_rows=num)


def test_a_member_is_a_plain_list_with_the_windows_vectors(clips: LocalStorage) -> None:
    (found,) = pickle.loads(T5Members(clips).read(sample(clips, 2, 4)))
    assert (found.dtype, found.shape) == (np.float16, (4, DIMENSIONS))
    np.testing.assert_array_equal(found, VECTORS[2:6])
    np.testing.assert_array_equal(read_t5_member(T5Members(clips).read(sample(clips, 0, 9))), VECTORS)


def test_equal_vectors_give_equal_bytes() -> None:
    assert t5_member(VECTORS[1:3]) == t5_member(np.asfortranarray(VECTORS[1:3].copy()))


@pytest.mark.parametrize(
    ("first", "num", "path", "why"),
    [
        pytest.param(None, None, None, "no T5 vectors", id="a window without"),
        pytest.param(0, 1, "t5_xxl/none.npy", "no T5 vectors t5_xxl/none.npy", id="no such file"),
        pytest.param(8, 2, PATH, "has 9 rows, not 8..9", id="rows behind the end"),
        pytest.param(0, 1, "clips/text.npy", "is no file of vectors", id="another file"),
        pytest.param(0, 1, "clips/float32.npy", "has float32", id="another type"),
    ],
)
def test_what_is_not_there_is_said(
    clips: LocalStorage, first: int | None, num: int | None, path: str | None, why: str
) -> None:
    clips.write("clips/text.npy", b"text")
    stream = io.BytesIO()
    np.save(stream, VECTORS.astype(np.float32))
    clips.write("clips/float32.npy", stream.getvalue())
    with pytest.raises(NoVectorsError, match=why):
        T5Members(clips).read(sample(clips, first, num, path))


def test_a_file_that_was_cut_off_is_said(clips: LocalStorage) -> None:
    clips.write(PATH, clips.read(PATH)[:-1])
    with pytest.raises(NoVectorsError, match="ends before row 8"):
        T5Members(clips).read(sample(clips, 8, 1))


class Harm:
    """A pickle that runs a program when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("/proc/harm",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps([Harm()]), pickle.dumps([VECTORS.astype(np.float32)]), pickle.dumps(VECTORS), b"", b"\x80\x04"],
)
def test_only_lists_of_one_half_precision_array_are_read(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"vectors|float16"):
        read_t5_member(content)
