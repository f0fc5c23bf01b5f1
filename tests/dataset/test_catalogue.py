"""The catalogue's rows and how they are written."""

import io
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.dataset.buckets import Bucket
from curation.dataset.catalogue import caption_of, catalogue_writer
from curation.dataset.content import SampleContent
from curation.dataset.packing import WindowSample
from curation.dataset.tars import Member

META = {"width": 1280, "height": 720, "windows": [{"start_frame": 0, "end_frame": 9}]}


def catalogue(*, num_rows: int, rows_per_group: int) -> bytes:
    stream = io.BytesIO()
    with catalogue_writer(stream, rows_per_group=rows_per_group) as writer:
        for i in range(num_rows):
            sample = WindowSample(f"c{i}_0_9", f"c{i}", "v", 0, 9, Bucket("720", "16_9", 0), 1, "clips/c.mp4", "")
            writer.add(sample, SampleContent(b"", META), tar="t.tar", member=Member(512, 1))
    return stream.getvalue()


@pytest.mark.parametrize(("num_rows", "num_groups"), [(0, 0), (1, 1), (3, 1), (4, 2), (7, 3)])
def test_rows_are_written_in_groups_and_none_is_lost(num_rows: int, num_groups: int) -> None:
    read = pq.ParquetFile(io.BytesIO(catalogue(num_rows=num_rows, rows_per_group=3)))
    assert read.num_row_groups == num_groups
    assert [row["key"] for row in read.read().to_pylist()] == [f"c{i}_0_9" for i in range(num_rows)]


def test_the_same_rows_give_the_same_bytes() -> None:
    assert catalogue(num_rows=7, rows_per_group=3) == catalogue(num_rows=7, rows_per_group=3)


@pytest.mark.parametrize(
    ("window", "caption"),
    [
        pytest.param({"start_frame": 0}, None, id="no caption"),
        pytest.param({"qwen_caption": "one"}, "one", id="a caption"),
        pytest.param({"qwen_caption": "one", "qwen_lm_enhanced_caption": "two"}, "two", id="an enhanced one wins"),
        pytest.param({"qwen_caption": "one", "qwen_lm_enhanced_caption": ""}, "one", id="not when it is empty"),
        pytest.param({"qwen_caption": "one", "nemotron_caption": "two"}, "one", id="the first of two"),
        pytest.param({"qwen_caption": None, "nemotron_caption": "two"}, "two", id="the first that is there"),
        pytest.param({"qwen_caption": "one", "qwen_status": "truncated"}, "one", id="a truncated one"),
        pytest.param({"qwen_caption": "one", "qwen_status": "error"}, None, id="not what stands beside an error"),
        pytest.param(
            {"qwen_caption": "one", "qwen_lm_enhanced_caption": "two", "qwen_lm_status": "error"},
            "one",
            id="not what stands beside an error of the enhancement",
        ),
    ],
)
def test_the_caption_to_train_on(window: dict[str, Any], caption: str | None) -> None:
    assert caption_of(window) == caption
