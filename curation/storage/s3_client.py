"""boto3, and what it needs around it: one client for each process and options, counted requests, errors that help."""

import logging
import os
import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from curation.errors import BusyError, StorageError, UnreachableError
from curation.storage.counts import add_request_counts
from curation.storage.options import S3Options

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

CALLERS_AT_ONCE = 32  # threads that use storage by themselves, such as those that read records
MISSING = {"NoSuchKey", "NotFound", "404"}

_THROTTLED_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_PASSING_CODES = {"InternalError", "RequestTimeout", "RequestTimeoutException"}
_PASSING_STATUS = {429, 500, 502, 503, 504}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 20.0  # ten tries are 33 to 65 s
_ATTEMPT = re.compile(rb"attempt=(\d+)")

_lock = threading.Lock()
_clients: dict[S3Options, "S3Client"] = {}
_pools: dict[S3Options, ThreadPoolExecutor] = {}
_buckets: set[tuple[S3Options, str]] = set()


def _forget() -> None:
    """A forked child shares no connection with its parent, and has none of its threads."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)


def client_for(options: S3Options) -> "S3Client":
    """The client of this process for these options; threads share it."""
    with _lock:
        if options not in _clients:
            _clients[options] = _make_client(options)
        return _clients[options]


def parts_pool(options: S3Options) -> ThreadPoolExecutor:
    """The threads of this process that upload and download parts. What they run waits for nothing that they run."""
    with _lock:
        if options not in _pools:
            _pools[options] = ThreadPoolExecutor(4 * options.requests_at_once, thread_name_prefix="s3-part")
        return _pools[options]


def credentials_source(profile_name: str | None) -> str | None:
    """Where boto3's chain finds credentials, such as ``env`` or ``shared-credentials-file``; None: nowhere.

    Raises:
        StorageError: there is no such profile, or what it names can't be used.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        found = boto3.Session(profile_name=profile_name).get_credentials()
    except BotoCoreError as error:
        raise StorageError(str(error)) from error
    return found.method if found is not None else None


def _make_client(options: S3Options) -> "S3Client":
    import boto3  # not at the top: a local run needs a second less to start
    from botocore.config import Config

    for name in ("boto3", "botocore", "urllib3"):  # at DEBUG they log tokens and what requests are signed with
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))
    path_style = options.endpoint_url is not None if options.path_style is None else options.path_style
    client = boto3.Session(profile_name=options.profile_name, region_name=options.region).client(
        "s3",
        endpoint_url=options.endpoint_url,
        config=Config(
            retries={"mode": "adaptive", "total_max_attempts": options.max_tries},
            s3={"addressing_style": "path" if path_style else "auto"},
            max_pool_connections=4 * options.requests_at_once + CALLERS_AT_ONCE,
            connect_timeout=options.connect_timeout_s,
            read_timeout=options.read_timeout_s,
            tcp_keepalive=True,
        ),
    )
    client.meta.events.register("before-send.s3", _count_sent)
    pause: Any = partial(_pause_before_retry, options.max_tries)  # typed as giving nothing, but what it gives is used
    client.meta.events.register_first("needs-retry.s3", pause)
    return client


def _count_sent(request: Any, event_name: str, **_: object) -> None:
    attempt = request.headers.get("amz-sdk-request", b"")
    found = _ATTEMPT.search(attempt if isinstance(attempt, bytes) else attempt.encode())
    counts = {event_name.rpartition(".")[2]: 1}
    if found and int(found[1]) > 1:
        counts["retries"] = 1
    add_request_counts(counts)


def _pause_before_retry(
    max_tries: int, response: Any, attempts: int, caught_exception: Exception | None, **_: object
) -> float | None:
    """Seconds until the next try of what failed for now; None: botocore decides.

    botocore alone gives up after some 35 repeated requests of all threads together, which is a second of an outage.
    Its adaptive mode still slows down all of this client's requests when the server asks for that.
    """
    from botocore import exceptions

    if caught_exception is not None:
        add_request_counts({"dropped": 1})
        may_pass = isinstance(caught_exception, exceptions.ConnectionError | exceptions.HTTPClientError)
    else:
        http, parsed = response
        code = parsed.get("Error", {}).get("Code")
        if http.status_code in {429, 503} or code in _THROTTLED_CODES:
            add_request_counts({"throttled": 1})
        may_pass = bool(http.status_code in _PASSING_STATUS or code in _THROTTLED_CODES | _PASSING_CODES)
    if not may_pass or attempts >= max_tries:
        return None
    return random.uniform(0.5, 1) * min(_FIRST_PAUSE_S * 2.0 ** (attempts - 1), _LONGEST_PAUSE_S)


def error_code(error: "ClientError") -> str:
    """S3's name of an error; of a HEAD request, whose answer has no body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _may_pass(error: "ClientError") -> bool:
    """Whether the server was too busy, or ill, at each try."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in _PASSING_STATUS or error_code(error) in _THROTTLED_CODES | _PASSING_CODES


def was_retried(error: "ClientError") -> bool:
    """Whether an earlier try of the request may have done what it asked for."""
    return bool(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def object_head(options: S3Options, bucket: str, key: str) -> "HeadObjectOutputTypeDef | None":
    """What S3 tells of an object; None when there is none in the bucket."""
    from botocore.exceptions import ClientError

    try:
        return client_for(options).head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        is_missing = error_code(error) in MISSING
        if not is_missing or (options, bucket) not in _buckets:
            # a HEAD's answer has no body that says what is wrong, and the same 404 when there is no bucket; the key as
            # the prefix, since rights may be given by prefix
            client_for(options).list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
            _buckets.add((options, bucket))
        if not is_missing:
            raise
        return None


@contextmanager
def storage_errors(doing: str, path: str, *, root: str, options: S3Options) -> Iterator[None]:
    """Tell what S3 or the way to it refused, and what to mend. No message holds a credential."""
    from botocore import exceptions
    from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError

    what = f"{doing} {path} in {root}" if path else f"{doing} {root}"
    try:
        yield
    except ClientError as error:
        kind = BusyError if _may_pass(error) else StorageError
        raise kind(f"can't {what}: {_refusal(error, root, options)}") from error
    except CredentialRetrievalError:  # its text is what the site's own program printed, whatever that is
        raise StorageError(f"can't {what}: {_no_credentials(options)}") from None
    except BotoCoreError as error:
        no_answer = isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError)
        kind = UnreachableError if no_answer else StorageError
        raise kind(f"can't {what}: {_failure(error, options)}") from error


def _refusal(error: "ClientError", root: str, options: S3Options) -> str:
    code, bucket = error_code(error), urlsplit(root).netloc
    answer: dict[str, Any] = dict(error.response.get("ResponseMetadata", {}))
    region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    who = f"profile {options.profile_name!r}" if options.profile_name else "the default credentials"
    advice = {
        "AccessDenied": f"{who} may not do that: ask for the right to it, or set another profile",
        "InvalidAccessKeyId": f"the server does not know the access key of {who}: check profile and endpoint_url",
        "SignatureDoesNotMatch": f"the secret key of {who} is not the one that belongs to its access key",
        "ExpiredToken": f"{who} have expired: log in again",
        "InvalidToken": f"the session token of {who} is not valid: log in again",
        "RequestTimeTooSkewed": "this machine's clock differs from the server's by too much: set it right",
        "NoSuchBucket": f"there is no bucket {bucket!r} at {place(options)}: check its name, region and endpoint_url",
        "InvalidBucketName": f"{bucket!r} can't be the name of a bucket",
        "PermanentRedirect": f"the bucket is in region {region or 'another one'}: set s3.region",
        "KeyTooLongError": "the server does not hold so long a name: shorten it",
        "NoSuchUpload": "its unfinished upload was removed by someone while it went on",
        "EntityTooLarge": "the object is larger than the server takes at once",
    }
    advice["403"] = f"{who} may list this and not read it: ask for s3:GetObject"
    same = {"TokenRefreshRequired": "ExpiredToken", "301": "PermanentRedirect"}
    same |= dict.fromkeys(["AuthorizationHeaderMalformed", "IllegalLocationConstraintException"], "PermanentRedirect")
    code = "PermanentRedirect" if region not in {None, options.region} and code == "400" else code
    message = error.response.get("Error", {}).get("Message", "")
    told = advice.get(same.get(code, code))
    tries = answer.get("RetryAttempts", 0) + 1
    return f"{code}: {told or message}" + (f" ({tries} tries)" if tries > 1 else "")


def _failure(error: Exception, options: S3Options) -> str:
    from botocore import exceptions

    if isinstance(error, exceptions.ProfileNotFound):
        return f"there is no profile {options.profile_name!r} in boto3's files (~/.aws/config, ~/.aws/credentials)"
    credentials = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.TokenRetrievalError)
    if isinstance(error, (*credentials, exceptions.SSOError)):
        return _no_credentials(options)
    # refused, reset, timed out, unknown host, TLS
    if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        return (
            f"no answer from {place(options)} after {options.max_tries} tries ({type(error).__name__}): "
            "check s3.endpoint_url and the network"
        )
    return f"{type(error).__name__}: {error}"


def _no_credentials(options: S3Options) -> str:
    if options.profile_name:
        return f"profile {options.profile_name!r} gives no credentials: check ~/.aws/credentials, or log in again"
    return "no credentials: name a profile (input_s3_profile_name, output_s3_profile_name) or set AWS_ACCESS_KEY_ID"


def place(options: S3Options) -> str:
    """The server, in words."""
    return options.endpoint_url or "S3"
