"""Weights from a model hub, checked byte by byte against what the hub says they are."""

import errno
import glob
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from curation.weights.locking import locked
from curation.weights.marker import MARKER_NAME, FileMark, Marker, file_size, read_marker, sha256_of, write_marker

logger = logging.getLogger(__name__)

_FORMATS = (".safetensors", ".bin", ".pt", ".pth")  # of these the first that a repository has; the others say it again
_NEVER = (".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".tflite")
_NEVER_FOLDERS = {"original", "onnx", "openvino", "metal"}
_PARALLEL_FILES = 2  # a pull that is killed starts again with the files it was at


class PullError(Exception):
    """The weights could not be had; the message says what would help."""


@dataclass(frozen=True, slots=True)
class _HubFile:
    """A file as the hub describes it: one of the hashes is there."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None

    def has(self, path: Path, sha256: str) -> bool:
        """Whether a file with that hash is this one."""
        return sha256 == self.sha256 if self.sha256 is not None else _git_sha1(path) == self.git_sha1


def pull(repository: str, revision: str, model_dir: str | Path, *, verify: bool = False) -> Path:
    """Have a model's weights in ``{model_dir}/{repository}``; files that are there already are kept.

    The marker is written once every file was checked. A folder that has one is not fetched again. One process at a
    time; others wait.

    Args:
        repository: ``organisation/name`` on the hub, which is the one of ``HF_ENDPOINT`` where that is set.
        revision: a commit, or a name that the hub knows; the marker gets the commit.
        model_dir: made where it is missing.
        verify: read a folder that is whole again, and fetch what was damaged.

    Raises:
        PullError: unreachable, no access, no such revision, disk full, or bytes that are not the hub's.
        OSError: the folder can't be written.
    """
    folder = Path(model_dir) / repository
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_if_possible(folder.parent / f".{folder.name}.lock"):
        if _is_whole(folder, repository, revision, verify=verify):
            return folder
        with _told_in_words(repository, revision):
            commit, files = _describe(repository, revision)
            if not _is_whole(folder, repository, commit, verify=verify):  # the revision was a name
                _fetch(repository, commit, files, folder)
    return folder


def _is_whole(folder: Path, repository: str, revision: str, *, verify: bool) -> bool:
    """Whether the marker's files are all there; with ``verify`` those that are damaged are removed."""
    try:
        marker = read_marker(folder)
    except FileNotFoundError:  # damaged: as good as none
        return False
    if marker is None or not marker.is_of(repository, revision) or marker.missing(folder):
        return False
    damaged = marker.damaged(folder) if verify else []
    for name in damaged:
        logger.warning("damaged file removed path=%s", folder / name)
        (folder / name).unlink()
    return not damaged


def _fetch(repository: str, commit: str, files: Sequence[_HubFile], folder: Path) -> None:
    """Download what is missing, check everything, and say so in the marker."""
    _forget(folder, {file.name for file in files})
    for file in files:
        if file_size(folder / file.name) not in (None, file.size):  # huggingface_hub may think that it knows it
            (folder / file.name).unlink()
    wanted = sum(file.size for file in files if file_size(folder / file.name) != file.size)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise PullError(f"{folder}: {wanted / 1e9:.1f} GB to fetch, {free / 1e9:.1f} GB free")
    _download(repository, commit, files, folder)
    marks = _checked(repository, files, folder)
    write_marker(folder, Marker(repository, commit, marks))
    logger.info("weights complete folder=%s revision=%s", folder, commit)


def _forget(folder: Path, keep: set[str]) -> None:
    """From here on the folder isn't whole: no marker, no other revision's files, no rest of a pull that was killed."""
    try:
        old = read_marker(folder)
    except FileNotFoundError:
        old = None
    (folder / MARKER_NAME).unlink(missing_ok=True)
    for name in set(old.files if old else ()) - keep:
        (folder / name).unlink(missing_ok=True)
    for rest in (folder / ".cache/huggingface/download").rglob("*.incomplete"):
        rest.unlink(missing_ok=True)


def _download(repository: str, commit: str, files: Sequence[_HubFile], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        repository,
        revision=commit,
        local_dir=folder,
        allow_patterns=[glob.escape(file.name) for file in files],
        max_workers=_PARALLEL_FILES,
        endpoint=os.environ.get("HF_ENDPOINT"),
    )


def _checked(repository: str, files: Sequence[_HubFile], folder: Path) -> Mapping[str, FileMark]:
    """Marks of all files; those that are not the hub's are removed, so that the next pull fetches them again."""
    marks, wrong = {}, []
    for file in files:
        path = folder / file.name
        if file_size(path) == file.size and file.has(path, sha256 := sha256_of(path)):
            marks[file.name] = FileMark(file.size, sha256)
        else:
            path.unlink(missing_ok=True)
            wrong.append(file.name)
    if wrong:
        raise PullError(
            f"{repository}: {', '.join(wrong)} did not arrive as the hub describes it (size and checksum), and was "
            "removed; pull again"
        )
    return marks


def _describe(repository: str, revision: str) -> tuple[str, list[_HubFile]]:
    """The commit of a revision, and those of its files that are needed."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    found = api.model_info(repository, revision=revision, files_metadata=True)
    siblings = {each.rfilename: each for each in found.siblings or ()}
    if found.sha is None or any(each.size is None for each in siblings.values()):
        raise PullError(f"{repository}: the hub at {api.endpoint} does not tell commits and sizes")
    files = []
    for name in needed_files(list(siblings)):
        each = siblings[name]
        files.append(_HubFile(name, each.size or 0, each.lfs.sha256 if each.lfs else None, each.blob_id))
    return found.sha, files


def needed_files(names: Sequence[str]) -> list[str]:
    """Of a repository's files those that a model is loaded from, and its words (readme, licence): the weights once."""
    weights = next((kind for kind in _FORMATS if any(name.endswith(kind) for name in names)), None)
    unwanted = (*_NEVER, *(kind for kind in _FORMATS if kind != weights))
    return [
        name
        for name in names
        if not name.removesuffix(".index.json").endswith(unwanted) and name.split("/")[0] not in _NEVER_FOLDERS
    ]


def _git_sha1(path: Path) -> str:
    """A file's name among git's objects, which is a hash of its bytes; these files are small."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _lock_if_possible(path: Path) -> Iterator[None]:
    """Some shared file systems have no locks: then two pulls at once do the work twice, and harm nothing."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            logger.warning("this file system has no locks: let only one pull run path=%s", path)
        yield


@contextmanager
def _told_in_words(repository: str, revision: str) -> Iterator[None]:
    """Say of the hub's errors what a person can do."""
    import httpx2
    from huggingface_hub import constants, errors

    hub = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise PullError(f"{repository} has no revision {revision} at {hub}") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise PullError(f"{repository}: {hub} answered: {error}") from error
        raise PullError(
            f"{repository}: {hub} has no such repository, or not for you: accept its licence there in a browser, and "
            f"set HF_TOKEN to a token of yours (HTTP {error.response.status_code})"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise PullError(
            f"{repository}: {hub} can't be reached ({error}); pull on a machine that reaches it (proxy: HTTPS_PROXY, "
            "mirror: HF_ENDPOINT), or copy the files there by hand"
        ) from error
    except errors.XetDownloadError as error:
        raise PullError(f"{repository}: {error}; pull again, with HF_HUB_DISABLE_XET=1 if that stays so") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PullError(f"{repository}: no room left ({error}); pull again once there is") from error
        if error.errno is None:  # a download that is shorter or longer than the hub said
            raise PullError(f"{repository}: {error}; pull again") from error
        raise
