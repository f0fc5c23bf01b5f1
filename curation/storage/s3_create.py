"""Creating an object unless there is one: by the server's own condition, or by a lease where it has none."""

import hashlib
import random
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from curation.storage.options import S3Options
from curation.storage.s3_client import client_for, error_code, object_head, was_retried
from curation.storage.s3_write import WRITER, content_type, is_written_by

OWN_FOLDER = ".clipmill/"
"""Below the root: what clipmill keeps for itself; listings leave it out."""

SETTLE_S = 2.0  # longer than a PUT's way from its time stamp to every listing, and than the stamps' 1 s
LEASE_S = 60.0  # a writer that has not put its object by then has died

_TRIES_IN_CONFLICT = 8

_known: dict[tuple[S3Options, str], bool] = {}


@dataclass(frozen=True, slots=True)
class Creator:
    """Creates objects of one bucket; ``own`` is the folder for what it needs itself."""

    options: S3Options
    bucket: str
    own: str
    settle_s: float = SETTLE_S
    lease_s: float = LEASE_S

    def create(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one; False when there is one, of two writers one wins."""
        if self.has_conditions():
            return self._put_if_none(key, content)
        return self._put_by_lease(key, content)

    def has_conditions(self) -> bool:
        """Whether the server heeds If-None-Match; asked once in each process.

        The second PUT of one object must fail. The object stays: later processes need one request for the answer.
        """
        from botocore.exceptions import ClientError

        known = _known.get((self.options, self.bucket))
        if known is None:
            try:
                known = not all(self._put_if_none(f"{self.own}create-once", b"") for _ in range(2))
            except ClientError as error:
                if error_code(error) not in {"NotImplemented", "501"}:
                    raise
                known = False
            _known[self.options, self.bucket] = known
        return known

    def _put_if_none(self, key: str, content: bytes) -> bool:
        from botocore.exceptions import ClientError

        writer = uuid.uuid4().hex
        for tries_left in reversed(range(_TRIES_IN_CONFLICT)):
            try:
                self._put(key, content, writer, IfNoneMatch="*")
                return True
            except ClientError as error:
                if error_code(error) in {"PreconditionFailed", "412"}:
                    # the answer to a try that succeeded may be lost, and the next try then finds its own object
                    return was_retried(error) and self._is_mine(key, writer)
                if error_code(error) not in {"ConditionalRequestConflict", "409"} or not tries_left:
                    raise
            time.sleep(random.uniform(0, 1))  # two at once: S3 asks both to try again
        raise AssertionError("not reached")

    def _put_by_lease(self, key: str, content: bytes) -> bool:
        """Of all who claim a key the earliest puts the object, by the server's clock; the others wait for it.

        A claim that began later than another one's listing has a later stamp, and a claim is seen by everyone who
        lists after it: so two can't both be first, as long as no PUT takes longer than ``settle_s`` to be listed
        and none that began within half of ``lease_s`` ends after it.
        """
        claims = self.claims_of(key)
        while not self._exists(key):
            writer = uuid.uuid4().hex
            self._put(claims + writer, b"", writer)
            begun = time.monotonic()
            try:
                time.sleep(self.settle_s)
                is_first = self._is_first(claims, claims + writer)
                if self._exists(key):  # after the listing: a claim that was gone by then had put its object before
                    return False
                if is_first and time.monotonic() - begun < self.lease_s / 2:
                    self._put(key, content, writer)
                    return self._is_mine(key, writer)
            finally:
                client_for(self.options).delete_object(Bucket=self.bucket, Key=claims + writer)
            time.sleep(random.uniform(0, self.settle_s))
        return False

    def claims_of(self, key: str) -> str:
        """The folder of the claims to a key."""
        return f"{self.own}creating/{hashlib.sha256(key.encode()).hexdigest()[:32]}/"

    def _is_first(self, claims: str, own: str) -> bool:
        """Whether a claim is the earliest of those whose writers may be alive."""
        listed = client_for(self.options).list_objects_v2(Bucket=self.bucket, Prefix=claims).get("Contents", [])
        stamps = {each["Key"]: each["LastModified"] for each in listed}
        if own not in stamps:
            return False
        oldest_alive = stamps[own] - timedelta(seconds=self.lease_s)
        return own == min((stamp, key) for key, stamp in stamps.items() if stamp >= oldest_alive)[1]

    def _put(self, key: str, content: bytes, writer: str, **condition: Any) -> None:
        client_for(self.options).put_object(
            Bucket=self.bucket,
            Key=key,
            Body=content,
            ContentType=content_type(key),
            Metadata={WRITER: writer},
            **condition,
        )

    def _is_mine(self, key: str, writer: str) -> bool:
        return is_written_by(writer, options=self.options, bucket=self.bucket, key=key)

    def _exists(self, key: str) -> bool:
        return object_head(self.options, self.bucket, key) is not None
