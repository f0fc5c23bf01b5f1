"""From tables of vectors to the table of duplicates."""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from curation.clip_ids import format_ids, parse_ids
from curation.dedup import DedupSettings, find_duplicates, load_duplicates
from curation.dedup.ids import ascending
from curation.storage import storage_for
from jobs import exits
from tests.dedup.groups import alike, at_cosine, topics, units
from tests.local_runs import clipmill_here
from tests.search.tables import NAME, random_ids, write_table


def dedup(folder: Path, **settings: Any) -> dict[str, tuple[str, float]]:
    """What is found in the tables of a folder: duplicate -> (kept, cosine)."""
    output = storage_for(str(folder / "found"))
    find_duplicates(storage_for(str(folder)), NAME, output, DedupSettings(**settings), device="cpu")
    table = pq.read_table(folder / "found/duplicates.parquet")
    assert table.schema.names == ["id", "max_id", "cosine_sim_score"]
    ids, kept, scores = (table[name].to_pylist() for name in table.schema.names)
    assert ids == sorted(ids)
    return {each: (other, score) for each, other, score in zip(ids, kept, scores, strict=True)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "found").iterdir()}


def write(folder: Path, ids: list[str], vectors: NDArray[np.float32], *, num_tables: int = 3) -> Path:
    for number, rows in enumerate(np.array_split(np.arange(len(ids)), num_tables)):
        write_table(folder, number, [ids[row] for row in rows], vectors[rows])
    return folder


@pytest.mark.parametrize("which_to_keep", ["hard", "easy", "random"])
@pytest.mark.parametrize("num_clusters", [1, None, 300])
def test_the_pairs_are_those_of_brute_force(tmp_path: Path, which_to_keep: str, num_clusters: int | None) -> None:
    vectors = topics(3000, 64, spread=0.7, num_topics=50)
    planted = np.concatenate([at_cosine(vectors[:300], 0.9901), at_cosine(vectors[300:600], 0.9899), vectors[600:700]])
    ids = random_ids(3700)
    vectors = np.concatenate([vectors, planted])
    expected = {frozenset((ids[first], ids[second])) for first, second in alike(vectors, 0.01)}
    assert expected == {frozenset((ids[k], ids[3000 + k])) for k in [*range(300), *range(600, 700)]}
    found = dedup(write(tmp_path, ids, vectors), which_to_keep=which_to_keep, num_clusters=num_clusters)
    assert {frozenset((each, other)) for each, (other, _) in found.items()} == expected
    assert len(found) == 400
    rows = dict(zip(ids, vectors.astype(np.float64), strict=True))
    assert all(score == pytest.approx(rows[each] @ rows[other], abs=1e-6) for each, (other, score) in found.items())


def test_what_is_kept_is_not_alike_and_what_is_not_is_like_a_kept_one(tmp_path: Path) -> None:
    vectors = topics(3000, 16, spread=0.35, num_topics=60)
    ids = random_ids(3000)
    found = dedup(write(tmp_path, ids, vectors), eps=0.05)
    kept = [row for row, each in enumerate(ids) if each not in found]
    assert 500 < len(kept) < 2500
    assert not alike(vectors[kept], 0.05)
    pairs = alike(vectors, 0.05)
    rows = {each: row for row, each in enumerate(ids)}
    for each, (other, _) in found.items():
        assert other not in found
        assert tuple(sorted((rows[each], rows[other]))) in pairs
    summary = json.loads((tmp_path / "found/summary.json").read_text())
    groups = {other for other, _ in found.values()}
    assert (summary["num_clips"], summary["num_duplicates"]) == (3000, len(found))
    assert (summary["num_kept"], summary["num_groups"]) == (len(kept), len(groups))
    assert summary["settings"]["eps"] == 0.05
    assert summary["provenance"]["embedding_algorithm"] == "cosmos-embed1-224p"


def test_neither_rows_nor_files_nor_a_second_search_change_a_byte(tmp_path: Path) -> None:
    vectors = topics(2000, 32, spread=0.3, num_topics=30)
    ids = random_ids(2000)
    dedup(write(tmp_path / "a", ids, vectors), eps=0.05)
    order = np.random.default_rng(5).permutation(2000)
    dedup(write(tmp_path / "b", [ids[row] for row in order], vectors[order], num_tables=2), eps=0.05)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first["duplicates.parquet"] == second["duplicates.parquet"]
    dedup(tmp_path / "a", eps=0.05)
    assert contents(tmp_path / "a") == first
    dedup(tmp_path / "a", eps=0.05, which_to_keep="random", seed=1)
    assert contents(tmp_path / "a")["duplicates.parquet"] != first["duplicates.parquet"]


@pytest.mark.parametrize(("which_to_keep", "kept"), [("hard", "far"), ("easy", "near")])
def test_hard_keeps_the_farthest_from_the_centre_and_easy_the_nearest(
    tmp_path: Path, which_to_keep: str, kept: str
) -> None:
    angles = {"far": 0.5, "near": 0.4, "others": 0.0}
    vectors = units(np.array([[np.cos(angle), np.sin(angle)] for angle in angles.values()]))
    far, near, *others = random_ids(6)
    ids = {"far": far, "near": near}
    write_table(tmp_path, 0, [far, near, *others], vectors[[0, 1, 2, 2, 2, 2]])
    found = dedup(tmp_path, num_clusters=1, which_to_keep=which_to_keep)
    assert ids[kept] not in found
    other = ids["near" if kept == "far" else "far"]
    assert found[other][0] == ids[kept]
    assert found[other][1] == pytest.approx(np.cos(0.1), abs=1e-6)
    assert len(found) == 4  # and three of the four that are identical


def test_a_clip_that_stands_twice_counts_once_and_one_without_direction_is_kept(tmp_path: Path) -> None:
    vectors = topics(10, 8, spread=1.0, num_topics=10)
    vectors[4], vectors[5, 0], vectors[6, 0] = 0, np.nan, np.inf
    ids = random_ids(10)
    write_table(tmp_path, 0, ids, vectors)
    write_table(tmp_path, 1, ids[:3], vectors[1:4])  # left from an earlier list
    assert dedup(tmp_path) == {}
    summary = json.loads((tmp_path / "found/summary.json").read_text())
    assert (summary["num_clips"], summary["num_without_direction"]) == (10, 3)


def test_a_dataset_finds_the_kept_clip_of_each_duplicate(tmp_path: Path) -> None:
    vectors = topics(500, 16, spread=0.4, num_topics=10)
    ids = random_ids(500)
    found = dedup(write(tmp_path, ids, vectors), eps=0.1)
    duplicates = load_duplicates(storage_for(str(tmp_path / "found")))
    assert dict(duplicates) == {each: other for each, (other, _) in found.items()}
    assert [duplicates.get(each) for each in ids] == [found.get(each, (None,))[0] for each in ids]
    assert len(duplicates) == len(found) > 100
    (tmp_path / "found/summary.json").unlink()
    with pytest.raises(ValueError, match="finished clipmill dedup"):
        load_duplicates(storage_for(str(tmp_path / "found")))


def test_ids_are_those_of_uuid() -> None:
    ids = [*random_ids(300), "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
    numbers = [(int(upper) << 64) + int(lower) for upper, lower in parse_ids(ids)]
    assert numbers == [uuid.UUID(each).int for each in ids]
    assert format_ids(parse_ids(ids)).to_pylist() == ids
    assert [ids[k] for k in ascending(parse_ids([*ids, *ids[:50]]))] == sorted(ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"eps": 0.0}, "1e-06 <= eps", id="eps of nothing"),
        pytest.param({"eps": 1.0}, "1e-06 <= eps", id="eps of everything"),
        pytest.param({"which_to_keep": "soft"}, "known: hard, easy, random", id="an unknown order"),
        pytest.param({"num_clusters": 11}, "1 to 10 clusters", id="more clusters than clips"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    write_table(tmp_path, 0, random_ids(10), topics(10, 8, spread=1.0, num_topics=10))
    with pytest.raises(ValueError, match=message):
        dedup(tmp_path, **settings)


def test_the_command_writes_beside_the_tables_and_says_what_it_found(tmp_path: Path) -> None:
    vectors = topics(50, 16, spread=1.0, num_topics=50)
    write(tmp_path, random_ids(60), np.concatenate([vectors, vectors[:10]]))
    done = clipmill_here("dedup", str(tmp_path))
    assert done.returncode == exits.DONE, done.stderr
    assert "10 of 60 clips are duplicates of 10 others; 50 are kept" in done.stdout
    (tmp_path / f"{NAME}_duplicates").rename(tmp_path / "found")
    found = contents(tmp_path)
    assert set(found) == {"duplicates.parquet", "summary.json"}
    again = clipmill_here("dedup", f"{tmp_path}/{NAME}_parquet/", str(tmp_path / "other/found"))
    assert again.returncode == exits.DONE, again.stderr
    assert contents(tmp_path / "other") == found


def test_the_command_says_what_is_missing_or_wrong(tmp_path: Path) -> None:
    done = clipmill_here("dedup", str(tmp_path))
    assert (done.returncode, "vectors of 0 models" in done.stderr) == (exits.USAGE, True)
    done = clipmill_here("dedup", f"{tmp_path}/{NAME}_parquet")
    assert (done.returncode, "no tables of vectors" in done.stderr) == (exits.USAGE, True)
    write(tmp_path, random_ids(9), topics(9, 8, spread=1.0, num_topics=9))
    done = clipmill_here("dedup", str(tmp_path), "--eps", "1.5")
    assert (done.returncode, "eps < 1" in done.stderr) == (exits.USAGE, True)
