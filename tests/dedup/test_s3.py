"""Tables and results on S3."""

from pathlib import Path

import numpy as np

from curation.dedup import DedupSettings, find_duplicates, load_duplicates
from curation.storage import storage_for
from tests.dedup.groups import topics
from tests.s3.conftest import storage_at
from tests.s3.server import S3Server
from tests.search.tables import NAME, random_ids, write_table


def test_on_s3_it_is_the_same(s3_env: S3Server, tmp_path: Path) -> None:
    vectors = topics(300, 16, spread=1.0, num_topics=300)
    ids = random_ids(350)
    s3 = storage_at(s3_env.endpoint_url)
    write_table(tmp_path, 0, ids[:300], vectors)
    write_table(tmp_path, 1, ids[300:], np.ascontiguousarray(vectors[:50]))
    for path in sorted(tmp_path.rglob("*.parquet")):
        s3.write(str(path.relative_to(tmp_path)), path.read_bytes())
    local = storage_for(str(tmp_path))
    reports = [find_duplicates(clips, NAME, clips, DedupSettings(), device="cpu") for clips in (local, s3)]
    assert reports[0] == reports[1]
    assert s3.read("duplicates.parquet") == local.read("duplicates.parquet")
    assert len(load_duplicates(s3)) == 50
