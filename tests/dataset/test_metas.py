"""Texts that wait on disk come back as they were, wherever they lie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dataset.metas import MetasAside
from curation.errors import StorageError

texts_of_blocks = st.lists(st.lists(st.text(max_size=3000), max_size=20), max_size=4)


@settings(deadline=None)  # files
@given(texts_of_blocks, st.data())
def test_any_texts_come_back_in_the_order_that_is_asked_for(blocks: list[list[str]], data: st.DataObject) -> None:
    aside, places, sizes, end = MetasAside(), [-1], [0], 0
    texts: list[str | None] = [None]
    for block in blocks:
        contents = [text.encode() for text in block]
        aside.add(contents)
        for content in contents:
            places.append(end if content else -1)
            sizes.append(len(content))
            texts.append(content.decode() or None)
            end += len(content)
    aside.settle()
    asked = data.draw(st.lists(st.integers(0, len(places) - 1), max_size=40))
    found = aside.read(np.array(places)[asked], np.array(sizes, np.int32)[asked])
    assert found.to_pylist() == [texts[index] for index in asked]


def test_a_full_disk_is_an_error_of_the_storage() -> None:
    aside = MetasAside()
    aside._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115  (a disk without room)
    aside.add([b"text"])
    with pytest.raises(StorageError, match="No space left on device: name a larger folder in TMPDIR"):
        aside.settle()
