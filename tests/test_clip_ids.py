"""Ids as numbers and as texts, against the standard library."""

from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.clip_ids import format_ids, hex_texts, parse_ids

ids = st.lists(st.uuids(), max_size=20)


@given(ids)
def test_ids_are_the_halves_of_the_numbers_that_uuids_are(uuids: list[UUID]) -> None:
    found = parse_ids([str(uuid) for uuid in uuids])
    assert found.tolist() == [list(divmod(uuid.int, 2**64)) for uuid in uuids]


@given(ids)
def test_ids_as_text_are_what_uuids_are_as_text(uuids: list[UUID]) -> None:
    numbers = np.array([divmod(uuid.int, 2**64) for uuid in uuids], np.uint64).reshape(-1, 2)
    assert format_ids(numbers).to_pylist() == [str(uuid) for uuid in uuids]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("clip-1", id="no hexadecimal digits"),
        pytest.param("6BA7B811-9DAD-11D1-80B4-00C04FD430C8", id="upper case, which would be another file"),
        pytest.param("6ba7b8119dad11d180b400c04fd430c8", id="no dashes"),
        pytest.param("6ba7b811-9dad-11d1-80b4-00c04fd430", id="too short"),
    ],
)
def test_what_is_no_uuid_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is no UUID"):
        parse_ids(["6ba7b811-9dad-11d1-80b4-00c04fd430c8", text])


@given(st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=10))
def test_bytes_are_written_as_the_standard_library_does(contents: list[bytes]) -> None:
    rows = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 4)
    assert hex_texts(rows).to_pylist() == [content.hex() for content in contents]
