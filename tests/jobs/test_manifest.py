"""The manifest: which videos it names, what it refuses and on which line, and the run's own copy of it."""

import codecs
import json
import os
import pickle
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.manifest import (
    EXPENSE_COLUMNS,
    VIDEO_EXTENSIONS,
    ManifestVideo,
    canonical_json,
    read_run_manifest,
    write_manifest,
)
from jobs.manifest_copy import copy_manifest, read_manifest
from jobs.manifest_rows import JsonValue, ManifestError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def ids(videos: Iterable[ManifestVideo]) -> list[str]:
    return [video.id for video in videos]


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def missing_of(source: str) -> list[tuple[int, str]]:
    """Line of each file that is not there, and why."""
    found: list[tuple[int, str]] = []
    copy_manifest(source, lambda block: found.extend(block.missing))
    return found


def problems_of(source: str, input_root: str | None = None) -> list[str]:
    """The problems of a manifest without its own path, which stands in front of each."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(source, input_root=input_root)
    assert all(problem.startswith(f"{source}:") for problem in caught.value.problems)
    return [problem.removeprefix(f"{source}:") for problem in caught.value.problems]


# A folder


def test_a_folder_gives_its_videos_sorted_by_relative_path(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.mov", "a/b/c.MKV", "a.mp4", "Z.mp4")
    videos = read_manifest(str(tmp_path))
    assert ids(videos) == ["Z.mp4", "a.mp4", "a/b/c.MKV", "a/z.mov", "b.mp4"]
    assert [video.path for video in videos] == [str(tmp_path / video.id) for video in videos]


def test_the_ids_of_a_folder_do_not_change_when_it_moves(tmp_path: Path) -> None:
    touch(tmp_path, "here/a/x.mp4", "here/y.mp4")
    before = ids(read_manifest(str(tmp_path / "here")))
    (tmp_path / "here").rename(tmp_path / "there")
    assert ids(read_manifest(str(tmp_path / "there"))) == before


def test_a_folder_named_relative_to_the_working_directory_gives_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "raw/x.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_manifest("raw") == [ManifestVideo("x.mp4", str(tmp_path / "raw/x.mp4"))]


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
def test_each_default_extension_is_found_in_any_case(tmp_path: Path, extension: str) -> None:
    touch(tmp_path, f"low{extension}", f"UP{extension.upper()}")
    assert len(read_manifest(str(tmp_path))) == 2


def test_other_files_and_hidden_files_and_folders_are_not_videos(tmp_path: Path) -> None:
    touch(tmp_path, "x.mp4", "x.txt", "mp4", "xmp4", "._x.mp4", ".mp4", ".cache/y.mp4", "a/.b/z.mp4")
    assert ids(read_manifest(str(tmp_path))) == ["x.mp4"]


def test_given_extensions_replace_the_defaults(tmp_path: Path) -> None:
    touch(tmp_path, "x.mp4", "y.y4m")
    assert ids(read_manifest(str(tmp_path), extensions=[".Y4M"])) == ["y.y4m"]


def test_a_folder_whose_name_ends_like_a_video_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "day.mp4/x.mp4")
    assert ids(read_manifest(str(tmp_path))) == ["day.mp4/x.mp4"]


@pytest.mark.parametrize(
    "name", ["two words.mp4", "ünï 日本.mp4", "new\nline.mp4", "-dash.mp4", "back\\slash.mp4", "a\tb.mp4"]
)
def test_any_name_of_a_file_system_is_an_id(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    assert ids(read_manifest(str(tmp_path))) == [name]


def test_equal_basenames_are_different_videos(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "b/x.mp4")
    assert ids(read_manifest(str(tmp_path))) == ["a/x.mp4", "b/x.mp4"]


def test_linked_files_and_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.mp4", "raw/y.mp4")
    (tmp_path / "raw/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/file.mp4").symlink_to(tmp_path / "elsewhere/x.mp4")
    videos = read_manifest(str(tmp_path / "raw"))
    assert ids(videos) == ["file.mp4", "folder/x.mp4", "y.mp4"]
    assert videos[0].path == str(tmp_path / "raw/file.mp4")  # the link, not what it leads to


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "b/y.mp4")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    assert ids(read_manifest(str(tmp_path))) == ["a/to_b/y.mp4", "a/x.mp4", "b/to_a/x.mp4", "b/y.mp4"]


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        pytest.param("gone.mp4", "No such file or directory", id="to nothing"),
        pytest.param("x.mp4", "Too many levels of symbolic links", id="to itself"),
    ],
)
def test_a_link_without_a_file_is_listed_and_then_missing(tmp_path: Path, target: str, fault: str) -> None:
    (tmp_path / "x.mp4").symlink_to(tmp_path / target)
    videos = read_manifest(str(tmp_path))
    assert ids(videos) == ["x.mp4"]
    assert missing_of(str(tmp_path)) == [(0, f"'{tmp_path}/x.mp4': {fault}")]


def test_a_name_that_is_not_utf8_is_a_problem_that_can_be_printed(tmp_path: Path) -> None:
    touch(tmp_path, "fine.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).touch()
    problems = problems_of(str(tmp_path))
    assert "'caf\\udce9.mp4' is not UTF-8" in problems[0]
    "".join(problems).encode()


def test_a_folder_without_a_video_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "notes.doc")
    assert problems_of(str(tmp_path)) == [" no video in it"]


# Lists of paths


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("m.txt", "a/x.mp4\ny.mp4\n", id="text"),
        pytest.param("m.txt", "a/x.mp4\ny.mp4", id="text without a last newline"),
        pytest.param("m.TXT", "a/x.mp4\r\ny.mp4\r\n", id="text of Windows"),
        pytest.param("m.txt", codecs.BOM_UTF8 + b"a/x.mp4\ny.mp4\n", id="text with a byte order mark"),
        pytest.param("m.txt", "./a//x.mp4\na/../y.mp4\n", id="text with odd ways to write a path"),
        pytest.param("m.json", '["a/x.mp4", "y.mp4"]', id="JSON"),
        pytest.param("m.json", '\n[{"path": "a/x.mp4"},\n\n"y.mp4"\n]\n', id="JSON of objects and strings"),
        pytest.param("m.json", codecs.BOM_UTF8 + b'["a/x.mp4", "y.mp4"]', id="JSON with a byte order mark"),
        pytest.param("m.jsonl", '{"path": "a/x.mp4"}\n{"path": "y.mp4", "id": null}\n', id="JSONL"),
        pytest.param("m.jsonl", '{"path": "a/x.mp4"}\r\n"y.mp4"', id="JSONL of Windows"),
        pytest.param("m.csv", "path\na/x.mp4\ny.mp4\n", id="CSV"),
        pytest.param("m.csv", "id,path,start_s,end_s\r\n,a/x.mp4,,\r\n,y.mp4,,\r\n", id="CSV of Windows, empty cells"),
        pytest.param("m.csv", codecs.BOM_UTF8 + b"path\na/x.mp4\ny.mp4\n", id="CSV with a byte order mark"),
    ],
)
def test_every_kind_of_list_names_the_same_videos(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert read_manifest(written(tmp_path, name, content)) == [
        ManifestVideo("a/x.mp4", str(tmp_path / "a/x.mp4")),
        ManifestVideo("y.mp4", str(tmp_path / "y.mp4")),
    ]


@pytest.mark.parametrize(
    ("path", "input_root", "expected_path", "expected_id"),
    [
        pytest.param("a/x.mp4", "/raw", "/raw/a/x.mp4", "a/x.mp4", id="relative to the input root"),
        pytest.param("/raw/a/x.mp4", "/raw", "/raw/a/x.mp4", "a/x.mp4", id="absolute below the input root"),
        pytest.param("/raw/a/x.mp4", "/raw/", "/raw/a/x.mp4", "a/x.mp4", id="a slash at the end of the root"),
        pytest.param("/raw/a/x.mp4", "/", "/raw/a/x.mp4", "raw/a/x.mp4", id="the root of the file system"),
        pytest.param("/raw2/x.mp4", "/raw", "/raw2/x.mp4", "raw2/x.mp4", id="a root is a folder, not a prefix"),
        pytest.param("/else/x.mp4", "/raw", "/else/x.mp4", "else/x.mp4", id="absolute elsewhere"),
        pytest.param("/else/x.mp4", None, "/else/x.mp4", "else/x.mp4", id="absolute without a root"),
        pytest.param(
            "s3://lake/raw/a/x.mp4", None, "s3://lake/raw/a/x.mp4", "lake/raw/a/x.mp4", id="URI without a root"
        ),
        pytest.param(
            "s3://lake/raw/a/x.mp4", "s3://lake/raw", "s3://lake/raw/a/x.mp4", "a/x.mp4", id="URI below a URI"
        ),
        pytest.param("a/x.mp4", "s3://lake/raw/", "s3://lake/raw/a/x.mp4", "a/x.mp4", id="relative to a URI"),
        pytest.param(
            "/else/x.mp4", "s3://lake/raw", "/else/x.mp4", "else/x.mp4", id="local although the root is a URI"
        ),
        pytest.param("s3://lake/a//x.mp4", "/raw", "s3://lake/a//x.mp4", "lake/a/x.mp4", id="a URI is kept as written"),
    ],
)
def test_a_path_and_its_id_follow_the_input_root(
    tmp_path: Path, path: str, input_root: str | None, expected_path: str, expected_id: str
) -> None:
    source = written(tmp_path, "m.txt", f"{path}\n")
    assert read_manifest(source, input_root=input_root) == [ManifestVideo(expected_id, expected_path)]


def test_a_relative_input_root_means_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path, "m.txt", "x.mp4\n")
    assert read_manifest(source, input_root="raw") == [ManifestVideo("x.mp4", str(tmp_path / "raw/x.mp4"))]


def test_a_line_of_text_is_a_path_and_nothing_else(tmp_path: Path) -> None:
    source = written(tmp_path, "m.txt", "# x.mp4\n two words.mp4 \n\u2028,\x85.mp4\n")
    assert ids(read_manifest(source)) == ["# x.mp4", " two words.mp4 ", "\u2028,\x85.mp4"]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        pytest.param("m.txt", "x.mp4\ny.mp4\n", [1, 2], id="text"),
        pytest.param("m.json", '[\n"x.mp4",\n\n {\n"path":\n"y.mp4"}, "z.mp4"]', [2, 4, 6], id="JSON"),
        pytest.param("m.csv", 'path,note\nx.mp4,"two\nlines"\ny.mp4,\n', [2, 4], id="CSV with a quoted newline"),
    ],
)
def test_a_video_knows_the_line_where_it_starts(tmp_path: Path, name: str, content: str, lines: list[int]) -> None:
    assert [video.line for video in read_manifest(written(tmp_path, name, content))] == lines


def test_the_line_of_a_video_is_no_part_of_what_it_is() -> None:
    assert ManifestVideo("x", "/x", line=3) == ManifestVideo("x", "/x", line=4)
    assert len({ManifestVideo("x", "/x", extra={"a": [1]}, line=3), ManifestVideo("x", "/x", extra={"a": [1]})}) == 1


# Columns


@pytest.mark.parametrize(
    ("name", "content", "extra"),
    [
        pytest.param(
            "m.jsonl",
            '{"id":"v","path":"/x.mp4","start_s":1,"end_s":2.5,"split":"val","tags":["a",{"b":null}],"n":3}',
            {"split": "val", "tags": ["a", {"b": None}], "n": 3},
            id="JSONL keeps values",
        ),
        pytest.param(
            "m.csv",
            'n,end_s,path,"sp,lit",id,start_s,extra,empty\n3,2.5,/x.mp4,"v ""1""",v,1,e,\n',
            {"n": "3", "sp,lit": 'v "1"', "extra": "e", "empty": ""},
            id="CSV keeps strings",
        ),
    ],
)
def test_columns_are_read_by_name_and_further_ones_kept(
    tmp_path: Path, name: str, content: str, extra: dict[str, object]
) -> None:
    [video] = read_manifest(written(tmp_path, name, content))
    assert (video.id, video.path, video.start_s, video.end_s, video.extra) == ("v", "/x.mp4", 1.0, 2.5, extra)


def test_one_path_may_stand_under_several_ids(tmp_path: Path) -> None:
    source = written(tmp_path, "m.csv", "id,path,start_s,end_s\na,x.mp4,0,5\nb,x.mp4,5,9\nc,x.mp4,5,9\n")
    assert [(video.id, video.start_s) for video in read_manifest(source)] == [("a", 0.0), ("b", 5.0), ("c", 5.0)]


def test_an_end_may_stand_without_a_start(tmp_path: Path) -> None:
    [video] = read_manifest(written(tmp_path, "m.jsonl", '{"path":"/x.mp4","end_s":3}'))
    assert (video.start_s, video.end_s) == (None, 3.0)


def test_limit_keeps_the_first_videos(tmp_path: Path) -> None:
    source = written(tmp_path, "m.txt", "c.mp4\na.mp4\nb.mp4\n")
    assert ids(read_manifest(source, limit=2)) == ["c.mp4", "a.mp4"]
    assert ids(read_manifest(source, limit=0)) == ids(read_manifest(source, limit=9)) == ["c.mp4", "a.mp4", "b.mp4"]


def test_limit_does_not_hide_a_problem_further_down(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=":2: empty line"):
        read_manifest(written(tmp_path, "m.txt", "x.mp4\n\ny.mp4\n"), limit=1)


# Problems


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param("", "empty line", id="an empty line"),
        pytest.param("  ", "empty line", id="a blank line"),
        pytest.param('{"path": "x.mp4"', "not valid JSON: Expecting ',' delimiter (column 17)", id="cut off"),
        pytest.param("[" * 100_000, "not valid JSON", id="nested too deeply"),
        pytest.param('{"path": "x.mp4", "n": %s}' % ("9" * 5000), "not valid JSON", id="a number of 5000 digits"),
        pytest.param("17", "expected an object or a path, got 17", id="a number"),
        pytest.param("null", "expected an object or a path, got None", id="null"),
        pytest.param('["x.mp4"]', "expected an object or a path, got ['x.mp4']", id="a list"),
        pytest.param("{}", "no path", id="no path"),
        pytest.param('{"path": null}', "no path", id="a path of null"),
        pytest.param('{"path": ""}', "no path", id="an empty path"),
        pytest.param('{"path": 3}', "path must be a string, got 3", id="a path that is a number"),
        pytest.param('{"path": "a\\u0000.mp4"}', "path 'a\\x00.mp4' holds a NUL", id="a NUL in the path"),
        pytest.param('{"path": "a\\ud800.mp4"}', "path 'a\\ud800.mp4' is not UTF-8", id="half a character in the path"),
        pytest.param('{"path": "x.mp4", "id": 3}', "id must be a string, got 3", id="an id that is a number"),
        pytest.param('{"path": "x.mp4", "start_s": "1"}', "start_s must be a number, got '1'", id="a start in quotes"),
        pytest.param('{"path": "x.mp4", "end_s": true}', "end_s must be a number, got True", id="an end that is true"),
        pytest.param('{"path": "x.mp4", "start_s": -0.5}', "start_s must be finite and >= 0, got -0.5", id="before 0"),
        pytest.param('{"path": "x.mp4", "start_s": NaN}', "start_s must be finite and >= 0, got nan", id="no number"),
        pytest.param('{"path": "x.mp4", "start_s": 1%s}' % ("0" * 400), "start_s must be finite", id="a huge integer"),
        pytest.param('{"path": "x.mp4", "end_s": Infinity}', "end_s must be finite", id="an end that never comes"),
        pytest.param('{"path": "x.mp4", "end_s": 0}', "after start_s, got [0.0, 0.0)", id="an end at the beginning"),
        pytest.param(
            '{"path": "x.mp4", "start_s": 2, "end_s": 2}', "after start_s, got [2.0, 2.0)", id="an empty span"
        ),
        pytest.param('{"path": "x.mp4", "n": [NaN]}', "not JSON in UTF-8", id="a further column that is not JSON"),
        pytest.param('{"path": "x.mp4", "n": 1e999}', "not JSON in UTF-8", id="a further column too large for a float"),
        pytest.param(
            '{"path": "x.mp4", "n": "\\udfff"}', "not JSON in UTF-8", id="half a character in a further column"
        ),
        pytest.param('{"path": "x.mp4", "n": 1, "extra": {"n": 2}}', "column 'n' stands in 'extra' too", id="two ns"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: str, problem: str) -> None:
    [found] = problems_of(written(tmp_path, "m.jsonl", f'{{"path": "fine.mp4"}}\n{line}\n{{"path": "fine2.mp4"}}\n'))
    assert found.startswith("2: ")
    assert problem in found


@pytest.mark.parametrize(
    ("video_id", "problem"),
    [
        pytest.param("", "has an empty segment", id="empty"),
        pytest.param("/a", "has an empty segment", id="absolute"),
        pytest.param("a/", "has an empty segment", id="a slash at the end"),
        pytest.param("a//b", "has an empty segment", id="two slashes"),
        pytest.param("..", "has a segment '.' or '..'", id="the folder above"),
        pytest.param("a/../b", "has a segment '.' or '..'", id="up in the middle"),
        pytest.param("a/.", "has a segment '.' or '..'", id="a dot at the end"),
        pytest.param("a\0b", "holds a NUL", id="NUL"),
        pytest.param("a\ud800", "is not UTF-8", id="half a character"),
        pytest.param("x" * 201, "has a segment longer than 200 bytes", id="a long name"),
        pytest.param("ü" * 101, "has a segment longer than 200 bytes", id="a long name, counted in bytes"),
        pytest.param("/".join(["x" * 150] * 6), "is longer than 900 bytes", id="many folders"),
    ],
)
def test_an_id_that_cannot_name_an_output_is_refused(tmp_path: Path, video_id: str, problem: str) -> None:
    [found] = problems_of(written(tmp_path, "m.jsonl", json.dumps({"id": video_id, "path": "x.mp4"})))
    assert found.startswith("1: id ")
    assert found.endswith(problem)
    with pytest.raises(ValueError, match="id "):
        ManifestVideo(video_id, "/x.mp4")


@pytest.mark.parametrize(
    "video_id",
    [
        "x" * 200,
        "ü" * 100,
        "/".join(["x" * 149] * 6),
        "a b",
        "...",
        "a/..b/c..",
        "-a",
        "a\nb",
        "a\n",
        "\\",
        "日本/語",
        ".a",
    ],
)
def test_an_id_that_can_name_an_output_is_kept(tmp_path: Path, video_id: str) -> None:
    assert ids(read_manifest(written(tmp_path, "m.jsonl", json.dumps({"id": video_id, "path": "x.mp4"})))) == [video_id]


def test_a_path_above_the_list_needs_an_id_of_its_own(tmp_path: Path) -> None:
    assert problems_of(written(tmp_path, "m.txt", "../x.mp4\n")) == ["1: id '../x.mp4' has a segment '.' or '..'"]
    [video] = read_manifest(written(tmp_path, "m.jsonl", '{"path": "../x.mp4", "id": "x"}'))
    assert video.path == str(tmp_path.parent / "x.mp4")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("m.txt", "x.mp4\ny.mp4\n./x.mp4\n", id="text"),
        pytest.param("m.jsonl", '{"path":"x.mp4"}\n"y.mp4"\n{"path":"z.mp4","id":"x.mp4"}\n', id="JSONL"),
        pytest.param("m.jsonl", '{"path":"x.mp4","start_s":-1}\n"y.mp4"\n"x.mp4"\n', id="the first is bad otherwise"),
    ],
)
def test_a_second_use_of_an_id_names_the_line_of_the_first(tmp_path: Path, name: str, content: str) -> None:
    assert problems_of(written(tmp_path, name, content))[-1] == "3: id 'x.mp4' stands on line 1 already"


def test_two_equal_ids_on_one_line_of_json_are_found(tmp_path: Path) -> None:
    assert problems_of(written(tmp_path, "m.json", '["x", "x"]')) == ["1: id 'x' stands on line 1 already"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("a", "a.json/b", id="the record of the first is a folder of the second"),
        pytest.param("a/b", "a/b.json/c/d", id="deeper"),
        pytest.param("a", "a_12.json/b", id="a clip chunk of the first is a folder of the second"),
        pytest.param("a_1", "a_1.json/b", id="an id that ends like a chunk"),
    ],
)
def test_ids_are_refused_where_one_needs_a_folder_and_the_other_a_file(tmp_path: Path, first: str, second: str) -> None:
    for order in ([first, second], [second, first]):
        [problem] = problems_of(written(tmp_path, "m.txt", "\n".join(order)))
        assert problem == f"{order.index(second) + 1}: id {second!r} needs a folder where id {first!r} has its record"


@pytest.mark.parametrize(
    "pair", [("a", "a/b"), ("a", "a.json"), ("a", "a_x.json/b"), ("a", "b/a.json/c"), ("a.json", "a")]
)
def test_ids_whose_records_lie_apart_are_kept(tmp_path: Path, pair: tuple[str, str]) -> None:
    assert ids(read_manifest(written(tmp_path, "m.txt", "\n".join(pair)))) == list(pair)


def test_all_problems_come_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    lines = ['"x.mp4"', "", '{"path": 3, "id": "..", "start_s": "a", "end_s": -1}', '"x.mp4"', '"x.mp4.json/a"', "{"]
    problems = problems_of(written(tmp_path, "m.jsonl", "\n".join(lines)))
    assert [problem.split(":")[0] for problem in problems] == ["2", "3", "3", "3", "3", "4", "5", "6"]


def test_the_message_shows_fifty_problems_and_the_error_keeps_all(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(written(tmp_path, "m.txt", "\n" * 60))
    assert len(caught.value.problems) == 60
    shown = str(caught.value).splitlines()
    assert shown[:50] == caught.value.problems[:50]
    assert shown[50:] == ["... and 10 more"]


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ManifestError(["m.txt:1: a", "m.txt:2: b"])))
    assert error.problems == ["m.txt:1: a", "m.txt:2: b"]
    assert str(error) == "m.txt:1: a\nm.txt:2: b"


@pytest.mark.parametrize("name", ["m.txt", "m.jsonl", "m.json", "m.csv"])
def test_lines_that_are_not_utf8_are_refused_each_by_itself(tmp_path: Path, name: str) -> None:
    lines = ["a.mp4", "caf\xe9.mp4", "b.mp4", "caf\xe8.mp4"]
    content = {
        "m.txt": "\n".join(lines),
        "m.jsonl": "\n".join(f'"{line}"' for line in lines),
        "m.json": "[" + ",\n".join(f'"{line}"' for line in lines) + "]",
        "m.csv": "\n".join(["path", *lines]),
    }[name]
    header = 1 if name == "m.csv" else 0
    assert problems_of(written(tmp_path, name, content.encode("latin-1"))) == [
        f"{header + 2}: path 'caf\\udce9.mp4' is not UTF-8",
        f"{header + 4}: path 'caf\\udce8.mp4' is not UTF-8",
    ]


@pytest.mark.parametrize("name", ["m.txt", "m.jsonl", "m.json", "m.csv"])
@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, "path\n".encode("utf-16")])
def test_a_list_without_a_video_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    assert problems_of(written(tmp_path, name, content))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param('["x.mp4",\n"y.mp4"\n', "3: not valid JSON", id="cut off"),
        pytest.param('["x.mp4",\n,"y.mp4"]', "2: not valid JSON", id="a comma too many"),
        pytest.param('{"path": "x.mp4"}', "1: not valid JSON: expected an array", id="no array"),
        pytest.param("[" * 100_000, "1: not valid JSON", id="nested too deeply"),
        pytest.param("[]", " no video in it", id="an empty array"),
    ],
)
def test_a_json_list_must_be_an_array(tmp_path: Path, content: str, problem: str) -> None:
    [found] = problems_of(written(tmp_path, "m.json", content))
    assert found.startswith(problem)


def test_a_bad_entry_of_a_json_list_is_refused_where_it_starts(tmp_path: Path) -> None:
    source = written(tmp_path, "m.json", '[\n  "x.mp4", 3,\n  {\n    "id": "y"\n  }\n]')
    assert problems_of(source) == ["2: expected an object or a path, got 3", "3: no path"]


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        pytest.param("id,path\na,x.mp4\n", [], id="nothing wrong"),
        pytest.param("id\na\n", ["1: no column 'path' (columns: ['id'])"], id="no path column"),
        pytest.param("path,note,note\nx,1,2\n", ["1: column 'note' stands twice"], id="a column twice"),
        pytest.param("path,\nx,\n", ["1: a column has no name"], id="a column without a name"),
        pytest.param("\npath\nx\n", ["1: no column 'path' (columns: [])"], id="an empty line first"),
        pytest.param(
            "path,n\nx\ny,1\nz,1,2\n",
            ["2: 1 fields where the header has 2", "4: 3 fields where the header has 2"],
            id="too few and too many fields",
        ),
        pytest.param("path,n\n\nx,1\n", ["2: empty line"], id="an empty line"),
        pytest.param("path,n\n,1\n", ["2: no path"], id="an empty path"),
        pytest.param(
            "path,start_s\nx,soon\ny,nan\n",
            ["2: start_s must be a number, got 'soon'", "3: start_s must be finite and >= 0, got nan"],
            id="a start that is no number",
        ),
        pytest.param('path,n\n"x,1\ny,2\n', ["2: not valid CSV: unexpected end of data"], id="an open quote"),
        pytest.param(
            'path,n\n"x"a,1\n\ny,2\n',
            ["2: not valid CSV: ',' expected after '\"'", "3: empty line"],
            id="text behind a quote",
        ),
        pytest.param('"path,n\nx,1\n', ["1: not valid CSV: unexpected end of data"], id="an open quote in the header"),
        pytest.param('"path"a,n\nx,1\n', ["1: not valid CSV: ',' expected after '\"'"], id="a bad header"),
    ],
)
def test_problems_of_a_csv_stand_at_their_lines(tmp_path: Path, content: str, problems: list[str]) -> None:
    source = written(tmp_path, "m.csv", content)
    if problems:
        assert problems_of(source) == problems
    else:
        assert ids(read_manifest(source)) == ["a"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        pytest.param("gs://lake/raw", "input_video_path: no storage for 'gs://lake/raw'", id="another kind of storage"),
        pytest.param("gone.txt", "manifest: 'gone.txt': No such file or directory", id="a list that is not there"),
        pytest.param("gone", "manifest: 'gone': No such file or directory", id="a folder that is not there"),
        pytest.param("m.xlsx", "expected a folder or a .txt, .json, .jsonl or .csv file", id="another kind of file"),
    ],
)
def test_a_source_that_is_no_manifest_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "m.xlsx")
    with pytest.raises(ManifestError) as caught:
        read_manifest(source)
    assert problem in str(caught.value)


# Files that are not there


def test_what_is_no_file_is_told_with_line_and_reason(tmp_path: Path) -> None:
    touch(tmp_path, "x.mp4", "folder.mp4/y.mp4")
    source = written(tmp_path, "m.txt", "x.mp4\ngone.mp4\nfolder.mp4\ns3://lake/z.mp4\nx.mp4/inside\n")
    assert missing_of(source) == [
        (2, f"'{tmp_path}/gone.mp4': No such file or directory"),
        (3, f"'{tmp_path}/folder.mp4': not a file"),
        (5, f"'{tmp_path}/x.mp4/inside': Not a directory"),
    ]


def test_many_missing_files_come_in_the_order_of_their_lines(tmp_path: Path) -> None:
    source = written(tmp_path, "m.txt", "".join(f"{index}.mp4\n" for index in range(5000)))
    assert [line for line, _ in missing_of(source)] == list(range(1, 5001))


# The run's own copy

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SEGMENT = TEXT.map(lambda text: text.replace("/", "").replace("\0", "")).filter(
    lambda text: text not in ("", ".", "..")
)
BOUND_S = st.floats(0, 1e6)
SPAN_S = st.tuples(st.none() | BOUND_S, BOUND_S).map(lambda pair: (pair[0], (pair[0] or 0) + pair[1] + 0.5))
FURTHER_COLUMNS = st.dictionaries(
    TEXT.filter(lambda name: name not in ("id", "path", "start_s", "end_s", *EXPENSE_COLUMNS)), JSON, max_size=3
)


@st.composite
def manifest_videos(draw: st.DrawFn) -> ManifestVideo:
    start_s, end_s = draw(SPAN_S | st.tuples(st.none() | BOUND_S, st.none()))
    path = draw(st.sampled_from(["/raw/", "s3://lake/"])) + draw(SEGMENT)
    return ManifestVideo(
        "/".join(draw(st.lists(SEGMENT, min_size=1, max_size=3))), path, start_s, end_s, draw(FURTHER_COLUMNS)
    )


MANIFESTS = st.lists(manifest_videos(), max_size=5, unique_by=lambda video: video.id)
one_folder_will_do = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@one_folder_will_do
@given(videos=MANIFESTS)
def test_what_is_written_is_read_back(tmp_path: Path, videos: list[ManifestVideo]) -> None:
    write_manifest(videos, tmp_path / "manifest.jsonl")
    copied = list(read_run_manifest(tmp_path / "manifest.jsonl"))
    assert copied == videos
    assert [video.line for video in copied] == list(range(1, len(videos) + 1))


@one_folder_will_do
@given(videos=MANIFESTS.filter(lambda videos: bool(videos) and not any(".json/" in video.id for video in videos)))
def test_the_copy_of_a_run_is_a_manifest_of_the_same_videos(tmp_path: Path, videos: list[ManifestVideo]) -> None:
    write_manifest(videos, tmp_path / "manifest.jsonl")
    assert read_manifest(str(tmp_path / "manifest.jsonl")) == videos


def test_the_copy_is_canonical_json_lines_without_absent_fields(tmp_path: Path) -> None:
    whole = ManifestVideo("ü\n", "/x", 1.0, 2.5, {"b": 1, "a": None}, line=7)
    write_manifest([whole, ManifestVideo("y", "/y")], tmp_path / "manifest.jsonl")
    assert (tmp_path / "manifest.jsonl").read_text(encoding="utf-8") == (
        '{"end_s":2.5,"extra":{"a":null,"b":1},"id":"ü\\n","path":"/x","start_s":1.0}\n{"id":"y","path":"/y"}\n'
    )


@given(JSON)
def test_canonical_json_is_what_the_json_module_makes_of_it(value: JsonValue) -> None:
    expected = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert canonical_json(value) == expected


def test_a_write_that_fails_leaves_the_copy_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_manifest([ManifestVideo("x", "/x")], path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest([ManifestVideo("y", "/y"), ManifestVideo("z", "/z", extra={"n": float("nan")})], path)
    assert ids(read_run_manifest(path)) == ["x"]
    assert os.listdir(tmp_path) == ["manifest.jsonl"]


@pytest.mark.parametrize(
    "line", ['{"id":"y"}', '{"id":"y","pa', '{"id":3,"path":"/y"}', '{"id":"..","path":"/y"}', "[]", "", "\xe9"]
)
def test_a_damaged_line_of_the_copy_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(f'{{"id":"x","path":"/x"}}\n{line}\n'.encode("latin-1"))
    videos = read_run_manifest(path)
    assert next(videos).id == "x"
    with pytest.raises(ManifestError, match=r"manifest\.jsonl:2: not a line of a run's manifest"):
        next(videos)
