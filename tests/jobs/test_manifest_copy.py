"""Manifests as streams: the fast way gives what the slow one gives, and pieces give what the whole gives."""

import json
import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jobs.manifest_copy as manifest_copy
from jobs.manifest import RowReader, manifest_line
from jobs.manifest_blocks import MISSING, Block, id_hashes, read_piece, read_rows
from jobs.manifest_copy import copy_manifest, costs_of
from jobs.manifest_rows import ManifestError, line_row, lines_of

one_folder_will_do = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

PATHS = st.sampled_from(
    ["/a.mp4", "b.mp4", "/a/../b", "/a//b", "/a/", "s3://x/y", "", " ", "/ü", "/a\n", "\ud800", "./c"]
)
IDS = st.sampled_from(["a", "a/b", "ü", "", "..", "x.json/y", "a b", "a\tb", "\ud800"]) | st.none()
NUMBERS: st.SearchStrategy[object] = st.sampled_from(
    [None, "", 0, 1, -1, 1.5, -0.5, "3", "x", True, [], 10**400, 10**16, math.inf, math.nan, 1e308]
)
ROWS = st.fixed_dictionaries(
    {"path": PATHS | st.none() | st.integers()},
    optional={
        "id": IDS | st.integers(),
        "size_bytes": NUMBERS,
        "duration_s": NUMBERS,
        "start_s": st.sampled_from([0, 1.5, -1]),
        "end_s": st.sampled_from([0, 2.5]),
        "extra": st.dictionaries(st.sampled_from(["n", "m"]), st.integers()) | st.integers(),
        "n": st.sampled_from([1, "ü", None, {"b": 1, "a": [2]}, "\udfff", math.nan]),
    },
)
LINES = ROWS.map(json.dumps) | ROWS.map(lambda row: json.dumps(row, ensure_ascii=True, indent=0).replace("\n", " "))
ODD_LINES = st.sampled_from(
    ["", " ", "{", '{"path":', '"b.mp4"}', '"b.mp4"', "[]", ' {"path": "b"}', '{"path": "b"} ', "{}\r"]
)


@one_folder_will_do
@given(lines=st.lists(LINES | ODD_LINES, max_size=8), newline=st.booleans())
def test_json_lines_give_what_their_rows_give_one_by_one(tmp_path: Path, lines: list[str], newline: bool) -> None:
    source = tmp_path / "m.jsonl"
    source.write_bytes("\n".join(lines).encode() + (b"\n" if newline else b""))
    text = source.read_bytes().decode()
    reader = RowReader.of(str(source), "/a")
    fast = read_piece(str(source), 0, len(text.encode()), ".jsonl", reader, None)
    rows = [(line, line_row(entry, ".jsonl")) for line, entry in enumerate(lines_of(text), start=1)]
    slow = read_rows(rows, reader, None)
    assert fast.num_lines == len(rows)
    assert contents(fast) == contents(slow)
    read = [reader.read(line, row) for line, row in rows if not isinstance(row, str)]
    assert fast.lines == b"".join(manifest_line(video) for _, video, _ in read if video is not None)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"path": "/a"} x', id="something behind"),
        pytest.param('{"path": "/a"}{"path": "/b"}', id="two on a line"),
        pytest.param('{"path": "/a",\n"id": "v"}', id="one on two lines"),
        pytest.param('{"path": "/a", "n": [{"m": 1}\n, {"m": 2}]}', id="a list on two lines"),
        pytest.param('{"path": "/a/../b", "id": "v"}', id="up"),
        pytest.param('{"path": "/a/./b", "id": "v"}', id="here"),
        pytest.param('{"path": "/a//b", "id": "v"}', id="two slashes"),
        pytest.param('{"path": "//a", "id": "v"}', id="two slashes first"),
        pytest.param('{"path": "/a/", "id": "v"}', id="a slash last"),
        pytest.param('{"path": "a", "id": "v"}', id="relative"),
        pytest.param('{"path": "s3://a//b", "id": "v"}', id="a URI"),
        pytest.param('{"path": " ", "id": "v"}', id="a blank path"),
        pytest.param('{"path": "/a", "id": "v", "start_s": 1.0}', id="a start"),
        pytest.param('{"path": "/a", "id": "v", "end_s": 1}', id="an end"),
        pytest.param('{"path": "/a", "id": "v", "extra": {"n": 1}}', id="extra"),
        pytest.param('{"path": "s3://a/b", "id": "v", "size_bytes": 10000000000000000}', id="a size beyond belief"),
        pytest.param('{"path": "/a", "id": "v", "size_bytes": -1}', id="a size below nothing"),
        pytest.param('{"path": "/a", "id": "v", "size_bytes": 1.5}', id="half a byte"),
        pytest.param('{"path": "/a", "id": "v", "size_bytes": true}', id="a size that is true"),
        pytest.param('{"path": "/a", "id": "v", "duration_s": Infinity}', id="for ever"),
        pytest.param('{"path": "/a", "id": "v", "duration_s": NaN}', id="no number"),
        pytest.param('{"path": "/a", "id": "v", "duration_s": -0.5}', id="before it began"),
        pytest.param('{"path": "/a", "id": "v", "duration_s": 0.0}', id="no time"),
        pytest.param('{"path": "/a", "id": "v", "duration_s": 3}', id="whole seconds"),
        pytest.param('{"path": "/a", "id": "v", "duration_s": 3.5, "size_bytes": 7, "b": "ü", "a": 0}', id="as most"),
        pytest.param('{"path": "/a", "id": "v", "n": NaN}', id="a further column that is no JSON"),
        pytest.param('{"path": "/a", "id": "v", "n": "\\udfff"}', id="a further column that is no UTF-8"),
        pytest.param('{"path": "/a", "id": "v/"}', id="a bad id"),
        pytest.param('{"path": "/a", "id": "v.json/w"}', id="an id below a record"),
        pytest.param('{"path": "/a", "id": 3}', id="an id that is a number"),
        pytest.param('{"path": "/a", "id": "v", "path": "/b"}', id="a key twice"),
    ],
)
def test_an_odd_line_gives_what_its_row_gives(tmp_path: Path, text: str) -> None:
    test_json_lines_give_what_their_rows_give_one_by_one.hypothesis.inner_test(  # type: ignore[attr-defined]
        tmp_path, ['{"path": "/first", "id": "first"}', *text.split("\n"), '{"path": "/last"}'], newline=True
    )


def contents(block: Block) -> list[object]:
    arrays = (block.line_numbers, block.sizes_bytes, block.num_bytes, block.durations_s, block.spans_s, block.id_hashes)
    rest = (block.lines, block.problems, block.num_problems, block.ids_below_records, block.num_looked, block.missing)
    return [*(str(each.tolist()) for each in arrays), *rest]


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a line or two, read by two processes wherever there are two cores."""
    monkeypatch.setattr(manifest_copy, "_PIECE_BYTES", 40)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def copied(source: Path, *, limit: int = 0) -> tuple[bytes, list[int], list[int]]:
    parts: list[Block] = []
    table = copy_manifest(str(source), parts.append, limit=limit)
    lines = b"".join(block.lines for block in parts)
    offsets = np.cumsum([0, *map(len, lines.splitlines(keepends=True))])[:-1]
    assert table.offsets.tolist() == offsets.tolist()
    return lines, [n for block in parts for n in block.line_numbers.tolist()], table.costs.tolist()


@pytest.mark.parametrize("kind", [".jsonl", ".txt"])
def test_pieces_of_several_processes_are_the_whole(tmp_path: Path, kind: str, tiny_pieces: None) -> None:
    names = [f"ü{k}.mp4" for k in range(40)]
    source = tmp_path / f"m{kind}"
    rows = [
        json.dumps({"path": name, "size_bytes": k + 1}) if kind == ".jsonl" else name for k, name in enumerate(names)
    ]
    source.write_text("\ufeff" + "\n".join(rows))
    lines, numbers, costs = copied(source)
    assert [json.loads(line)["id"] for line in lines.splitlines()] == names
    assert numbers == list(range(1, 41))
    assert costs == [1] * 40  # none is there, and all are looked at


def test_problems_of_all_pieces_have_the_lines_of_the_whole(tmp_path: Path, tiny_pieces: None) -> None:
    rows = [f'{{"path": "{k}.mp4"}}' for k in range(30)]
    rows[4], rows[17], rows[29] = "no json", rows[3], '{"id": "3.mp4.json/x", "path": "y"}'
    source = tmp_path / "m.jsonl"
    source.write_text("\n".join(rows) + "\n")
    with pytest.raises(ManifestError) as caught:
        copy_manifest(str(source), lambda _: None)
    assert [problem.removeprefix(f"{source}:") for problem in caught.value.problems] == [
        "5: not valid JSON: Expecting value (column 1)",
        "18: id '3.mp4' stands on line 4 already",
        "30: id '3.mp4.json/x' needs a folder where id '3.mp4' has its record",
    ]


def test_a_limit_is_kept_across_pieces(tmp_path: Path, tiny_pieces: None) -> None:
    source = tmp_path / "m.txt"
    source.write_text("".join(f"{k}.mp4\n" for k in range(100)))
    lines, numbers, _ = copied(source, limit=17)
    assert numbers == list(range(1, 18))
    assert len(lines.splitlines()) == 17


def test_of_a_list_of_nothing_but_mistakes_the_first_are_told_and_all_counted(tmp_path: Path) -> None:
    source = tmp_path / "m.txt"
    source.write_text("\n" * 5000)
    with pytest.raises(ManifestError) as caught:
        copy_manifest(str(source), lambda _: None)
    assert caught.value.problems[0] == f"{source}:1: empty line"
    assert caught.value.problems[-1] == f"{source}: ... and {5000 - len(caught.value.problems) + 1} more problems"


def test_equal_hashes_of_different_ids_are_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.manifest_blocks._WEIGHTS", np.zeros(900, np.uint64))  # every id has the same number
    source = tmp_path / "m.txt"
    source.write_text("".join(f"{k}.mp4\n" for k in range(50)))
    assert len(copied(source)[0].splitlines()) == 50
    source.write_text("".join(f"{k % 49}.mp4\n" for k in range(50)))
    with pytest.raises(ManifestError, match=r"50: id '0\.mp4' stands on line 1 already"):
        copy_manifest(str(source), lambda _: None)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), unique=True, max_size=30))
def test_different_ids_have_different_hashes_and_equal_ones_the_same(video_ids: list[str]) -> None:
    hashes = id_hashes(video_ids).tolist()
    assert len(set(hashes)) == len(video_ids)
    assert [int(id_hashes([video_id])[0]) for video_id in video_ids] == hashes


# What a video costs


def costs(rows: Sequence[tuple[int, float, float]]) -> list[int]:
    num_bytes, durations, spans = zip(*rows, strict=True)
    return list(map(int, costs_of(np.array(num_bytes, np.int64), np.array(durations), np.array(spans))))


def test_without_durations_the_cost_is_the_size() -> None:
    assert costs([(5, math.nan, math.nan), (1, math.nan, math.nan), (0, math.nan, math.nan)]) == [5, 1, 1]


def test_durations_cost_the_mean_bytes_of_so_many_seconds() -> None:
    rows = [(1000, 1.0, 1.0), (3000, 3.0, 3.0), (8000, 2.0, 2.0)]  # 12000 bytes in 6 s
    assert costs(rows) == [2000, 6000, 4000]
    assert sum(costs(rows)) == 12000


def test_sizes_and_durations_are_comparable() -> None:
    assert costs([(1000, 10.0, 10.0), (777, math.nan, math.nan), (0, 20.0, 20.0)]) == [1000, 777, 2000]


def test_a_span_costs_its_share_and_what_is_not_there_costs_one() -> None:
    assert costs([(1000, 10.0, 2.5), (MISSING, 10.0, 10.0)]) == [250, 1]


@pytest.mark.parametrize(
    ("row", "seconds"),
    [
        pytest.param({"duration_s": 10}, 10.0, id="the whole file"),
        pytest.param({"duration_s": "10"}, 10.0, id="as a table has it"),
        pytest.param({"duration_s": 10, "start_s": 4}, 6.0, id="from a second on"),
        pytest.param({"duration_s": 10, "start_s": 4, "end_s": 7}, 3.0, id="a span"),
        pytest.param({"duration_s": 10, "start_s": 4, "end_s": 99}, 6.0, id="a span beyond the end"),
        pytest.param({"start_s": 4, "end_s": 7}, 3.0, id="a span of an unknown file"),
        pytest.param({"start_s": 4}, math.nan, id="no end"),
        pytest.param({"duration_s": None}, math.nan, id="null"),
        pytest.param({"duration_s": ""}, math.nan, id="an empty cell"),
        pytest.param({"duration_s": 0}, math.nan, id="none is as unknown as null"),
    ],
)
def test_the_seconds_of_a_row(tmp_path: Path, row: dict[str, object], seconds: float) -> None:
    source = tmp_path / "m.jsonl"
    source.write_text(json.dumps({"path": "/x.mp4", **row}))
    [block] = blocks(source)
    assert block.spans_s.tolist() == pytest.approx([seconds], nan_ok=True)


def blocks(source: Path) -> list[Block]:
    found: list[Block] = []
    copy_manifest(str(source), found.append)
    return found


@pytest.mark.parametrize("value", ["soon", -1, True, [1]])
@pytest.mark.parametrize("name", ["size_bytes", "duration_s"])
def test_a_size_or_duration_that_is_none_is_refused_with_its_line(tmp_path: Path, name: str, value: object) -> None:
    source = tmp_path / "m.jsonl"
    source.write_text(json.dumps({"path": "x.mp4", name: value}))
    with pytest.raises(ManifestError, match=rf"m\.jsonl:1: {name} must be a finite number"):
        copy_manifest(str(source), lambda _: None)


def test_a_size_that_is_given_is_taken_and_the_rest_are_looked_up(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x" * 100)
    source = tmp_path / "m.csv"
    source.write_text("path,size_bytes\na.mp4,7\nb.mp4,\ngone.mp4,7\n")
    [block] = blocks(source)
    assert block.num_bytes.tolist() == [7, 100, MISSING]


def test_of_many_videos_with_sizes_only_some_are_looked_at(tmp_path: Path) -> None:
    source = tmp_path / "m.csv"
    source.write_text("path,size_bytes\n" + "".join(f"{k}.mp4,7\n" for k in range(1000)))
    [block] = blocks(source)
    assert 0 < block.num_looked < 100
    assert len(block.missing) == block.num_looked


def test_pieces_are_whole_lines_and_cover_the_file(tmp_path: Path, tiny_pieces: None) -> None:
    path = tmp_path / "m.txt"
    path.write_bytes(b"a\n" + b"b" * 100 + b"\n\n" + b"c" * 50)
    with manifest_copy._opened(str(path), None, (), None) as source:
        pieces = list(source.pieces())
    assert (pieces[0][0], pieces[-1][1]) == (0, path.stat().st_size)
    assert all(a[1] == b[0] for a, b in pairwise(pieces))
    assert all(path.read_bytes()[end - 1 : end] == b"\n" for _, end in pieces[:-1])
