"""What a task checks in a few seconds before it begins a video, and which of it is the node's own fault."""

import argparse
import errno
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from curation.errors import BusyError, StorageError, UnreachableError
from curation.source_files import is_uri
from curation.storage import storage_for
from curation.video.encode import choose_encoder
from jobs.annotation import is_annotation, output_storage
from jobs.config import RunConfig
from jobs.exits import DONE, FAILED
from jobs.models_needed import missing_weights, needed_models
from jobs.own_job import own_job_id
from jobs.rundir import RunDir

logger = logging.getLogger(__name__)

_GPU_TIMEOUT_S = 180.0  # torch is loaded in it, by a thousand tasks at once
_NUM_SAMPLED = 32
_NUM_NAMED = 3
# what a file system says that is full or forbidden says it to every node; the rest is between it and this one
_SAME_EVERYWHERE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a worker can't begin here. ``is_of_node``: it may go elsewhere, the node is to blame."""

    check: str
    message: str
    is_of_node: bool


def login_problems(config: RunConfig) -> list[str]:
    """What a login node can tell beforehand of encoder, weights and output folder; starts no heavy import."""
    problems = []
    if not (config.cluster == "slurm" and config.clips.encoder == "h264_nvenc"):  # a login node has no GPU
        problems += _encoder(config)
    return [problem.message for problem in (*problems, *_weights(config), *_output(config))]


def task_problems(run: RunDir, config: RunConfig) -> list[Problem]:
    """Everything that is in the way of a worker on this node, all at once; logs how long each look took."""
    gpus = _start_gpu_check(config)
    problems = _timed("encoder", lambda: _encoder(config))
    problems += _timed("scratch", lambda: _scratch(config))
    problems += _timed("input", lambda: _input(run, config))
    problems += _timed("output", lambda: _output(config, writes=True))
    problems += _timed("run_folder", lambda: _run_folder(run))
    problems += _timed("weights", lambda: _weights(config))
    if gpus is not None:
        problems += _timed("gpu", lambda: _gpu(gpus))
    return problems


def _timed(name: str, check: Callable[[], list[Problem]]) -> list[Problem]:
    began = time.monotonic()
    problems = check()
    took_s = time.monotonic() - began
    logger.info("event=preflight check=%s ok=%s s=%.2f", name, not problems, took_s)
    return problems


def _encoder(config: RunConfig) -> list[Problem]:
    if is_annotation(config):  # nothing is encoded
        return []
    try:
        choose_encoder(config.clips.encoder)
    except ValueError as error:
        return [Problem("encoder", str(error), is_of_node=True)]
    return []


def _weights(config: RunConfig) -> list[Problem]:
    """Weights that are not in the folder of models are missing everywhere; a folder that is not there is a mount."""
    problems = []
    if not config.split.is_fixed_stride and not is_annotation(config):
        from curation.clipping.shot_model import find_weights

        try:
            find_weights(config.split.transnetv2_model_dir)
        except (ValueError, FileNotFoundError) as error:
            problems.append(Problem("weights", str(error), is_of_node=False))
    is_mounted = not needed_models(config) or os.path.isdir(config.models.model_dir)
    return problems + [Problem("weights", line, is_of_node=not is_mounted) for line in missing_weights(config)]


def _output(config: RunConfig, *, writes: bool = False) -> list[Problem]:
    if not writes and is_uri(config.output_clip_path):  # planning looks whether it can be written to
        return []
    storage = output_storage(config)
    try:
        if writes:
            storage.check_writable()
        else:
            storage.exists("clips")
    except StorageError as error:
        message = f"output_clip_path {config.output_clip_path}: StorageError: {error}"
        return [Problem("output", message, is_of_node=_is_nodes(error.__cause__))]
    return []


def _run_folder(run: RunDir) -> list[Problem]:
    try:
        run.state_path.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run.state_path, prefix=".", suffix=".tmp"):
            pass
    except OSError as error:
        return [
            Problem("run_folder", f"run_dir: can't write to {run.state_path}: {error}", is_of_node=_is_nodes(error))
        ]
    return []


def _is_nodes(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno not in _SAME_EVERYWHERE


def _input(run: RunDir, config: RunConfig) -> list[Problem]:
    """A missing mount is no fault of the videos below it."""
    host = socket.gethostname()
    root = config.input_video_path
    if root is not None:
        if is_uri(root):
            return _reaches(root, config)
        if Path(root).is_dir():
            return []
        return [Problem("input", f"input_video_path {root} is not there on {host}: is it mounted?", is_of_node=True)]
    paths = list(_sampled_paths(run))
    uris = [path for path in paths if is_uri(path)]
    if uris:
        return _reaches(uris[0].rpartition("/")[0], config)
    folders = sorted({os.path.dirname(path) for path in paths})
    if not folders or any(map(os.path.isdir, folders)):
        return []
    named = ", ".join(folders[:_NUM_NAMED])
    message = f"none of the folders of {_NUM_SAMPLED} videos is there on {host}: are they mounted? ({named})"
    return [Problem("input", message, is_of_node=True)]


def _reaches(uri: str, config: RunConfig) -> list[Problem]:
    """Whether there is a way from this node to S3; what else may be wrong with it, a worker tells as it comes to it.

    Only where a task may go to another node.
    """
    if own_job_id() is None:
        return []
    try:
        next(storage_for(uri, config.input_s3.hurried()).list(), None)
    except BusyError:
        return []
    except UnreachableError as error:
        return [Problem("input", str(error), is_of_node=True)]
    except (StorageError, ValueError) as error:
        logger.warning("event=input_not_listed: %s", error)
    return []


def _sampled_paths(run: RunDir) -> Iterator[str]:
    """Paths of videos from all over the manifest: the plan saw to it that some are there."""
    with run.manifest_path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        chance = random.Random(0)
        for position in sorted(chance.randrange(size) for _ in range(_NUM_SAMPLED)) if size else ():
            file.seek(position)
            file.readline()  # the rest of a line
            line = file.readline()
            if not line:
                file.seek(0)
                line = file.readline()
            yield str(json.loads(line)["path"])


def scratch_folder(config: RunConfig) -> str:
    """Where this node's temporary files go."""
    if config.worker.scratch_dir is not None:
        return os.path.expandvars(os.path.expanduser(config.worker.scratch_dir))
    return os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def use_scratch(config: RunConfig) -> None:
    """Have this process and those it starts put temporary files there."""
    os.environ["TMPDIR"] = scratch_folder(config)
    tempfile.tempdir = None  # else the place that was found first


def _scratch(config: RunConfig) -> list[Problem]:
    folders = [scratch_folder(config)]
    if config.models.copy_weights_to is not None:
        folders.append(config.models.copy_weights_to)
    return [problem for folder in folders for problem in _scratch_folder(folder, config.worker.scratch_min_gb)]


def _scratch_folder(folder: str, min_gb: float) -> list[Problem]:
    try:
        if not os.path.isdir(folder):
            os.mkdir(folder)  # not its parents: they may be a disk that is not mounted
        with tempfile.NamedTemporaryFile(dir=folder, prefix="clipmill-") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
        free_gb = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return [Problem("scratch", f"can't write to the scratch folder {folder}: {error}", is_of_node=True)]
    if free_gb < min_gb:
        message = f"the scratch folder {folder} has {free_gb:.1f} GB free, worker.scratch_min_gb asks for {min_gb:g}"
        return [Problem("scratch", message, is_of_node=True)]
    return []


def _start_gpu_check(config: RunConfig) -> "subprocess.Popen[str] | None":
    """In Slurm, where models run on GPUs: elsewhere nobody promised any."""
    uses_models = not config.split.is_fixed_stride or needed_models(config) or config.embeddings.generate_embeddings
    if config.cluster == "debug" or own_job_id() is None or not config.slurm.gpus_per_task:
        return None
    if not uses_models:
        return None
    captions = config.captions
    min_free_share = captions.gpu_memory_utilization if captions.generate_captions else 0.0
    command = [sys.executable, "-m", "jobs.gpu_check", str(config.slurm.gpus_per_task), str(min_free_share)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _gpu(check: "subprocess.Popen[str]", *, timeout_s: float = _GPU_TIMEOUT_S) -> list[Problem]:
    hangs = False
    try:
        printed, errors = check.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        hangs = True
        check.kill()
        printed, errors = _text(error.stdout), _text(error.stderr)
    told: dict[str, object] = {}
    for line in printed.splitlines():
        if line.startswith("{"):
            told |= json.loads(line)
    if "skipped" in told:
        logger.info("event=gpu_check_skipped: %s", told["skipped"])
        return []
    problems = told.get("problems")
    if isinstance(problems, list):
        return [Problem("gpu", str(problem), is_of_node=True) for problem in problems]
    if "loaded" not in told:  # a slow file system, or a broken environment: loading the models will tell
        logger.warning("event=gpu_check_failed: torch was not loaded: %s", _last_line(errors))
        return []
    what = f"no answer after {timeout_s:g} s" if hangs else f"{_last_line(errors)} (exit status {check.returncode})"
    return [Problem("gpu", f"a small product on the GPU: {what}", is_of_node=True)]


def _text(found: "str | bytes | None") -> str:
    return found.decode(errors="replace") if isinstance(found, bytes) else found or ""


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def main() -> int:
    """Look as a task does, without work after it; gives the exit code: 0 nothing is in the way, 1 something is."""
    parser = argparse.ArgumentParser(prog="python -m jobs.preflight", description="what a worker needs on this node")
    parser.add_argument("--run", required=True, help="run folder")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    run = RunDir(Path(parser.parse_args().run))
    problems = task_problems(run, run.load_config())
    for each in problems:
        logger.error("event=preflight_failed check=%s of_node=%s: %s", each.check, each.is_of_node, each.message)
    return FAILED if problems else DONE


if __name__ == "__main__":
    sys.exit(main())
