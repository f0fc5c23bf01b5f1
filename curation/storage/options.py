"""How S3 is spoken to, as a value that goes to other processes with what uses it."""

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

MIB = 2**20
MIN_PART_BYTES, MAX_PART_BYTES = 5 * MIB, 5 * 1024 * MIB
"""Source: Amazon S3 User Guide, "multipart upload limits"; the last part may be smaller."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """Credentials are no part of it: each process finds them by boto3's own chain.

    ``path_style``: the bucket is in the path and not in the host name; None: where there is an ``endpoint_url``.
    ``requests_at_once`` parts of one stream or download are on their way at the same time.
    """

    profile_name: str | None = None
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    part_size_bytes: int = 16 * MIB
    requests_at_once: int = 4
    max_tries: int = 10
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and (problem := endpoint_problem(self.endpoint_url)):
            raise ValueError(problem)
        if not MIN_PART_BYTES <= self.part_size_bytes <= MAX_PART_BYTES:
            raise ValueError(f"a part has 5 MiB to 5 GiB, got {self.part_size_bytes} bytes")

    def hurried(self) -> "S3Options":
        """The same, for a look that must end soon: what does not answer at once is told at once."""
        return replace(self, max_tries=2, connect_timeout_s=1.5, read_timeout_s=2.0)


def endpoint_problem(url: str) -> str | None:
    """What is wrong with an endpoint; the text does not hold it, since it may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "expected a URL such as https://s3.example.org:9000"
    if parts.username or parts.password:
        return "no user or password in the URL: credentials come from boto3's own chain (a profile, AWS_ACCESS_KEY_ID)"
    return None
