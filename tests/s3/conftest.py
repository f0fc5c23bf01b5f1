import uuid
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from curation.storage import S3Options, request_counts
from curation.storage.options import MIB
from curation.storage.s3 import S3Storage
from tests.s3.proxy import Proxy
from tests.s3.server import BUCKET, S3Server

Counted = Callable[[], Counter[str]]


@pytest.fixture
def proxy(s3_env: S3Server) -> Iterator[Proxy]:
    """A way to the server that goes wrong on demand."""
    with Proxy(s3_env.port) as proxy:
        yield proxy


@pytest.fixture
def s3(proxy: Proxy) -> S3Storage:
    """An empty storage that is reached by the proxy."""
    return storage_at(proxy.endpoint_url)


@pytest.fixture
def counted() -> Counted:
    """Gives the requests that this process has counted since the test began."""
    before = Counter(request_counts())
    return lambda: Counter(request_counts()) - before


def storage_at(endpoint_url: str, *, max_tries: int = 10, profile_name: str | None = None) -> S3Storage:
    options = S3Options(
        endpoint_url=endpoint_url, part_size_bytes=5 * MIB, max_tries=max_tries, profile_name=profile_name
    )
    return S3Storage(f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}", options)
