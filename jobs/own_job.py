"""The Slurm job that this process is a task of: starting it again, and keeping what still waits off a node."""

import logging
import os
import re
import subprocess
from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

_NAME = "clipmill"  # how the names of our jobs begin
_NOT_USABLE = ("down", "drain", "drng", "fail", "unk")
_ENDED_TASKS = "Job is no longer pending execution"


def own_job_id() -> str | None:
    """``123_4`` for a task of an array (its own job id would name the whole array), ``123`` for a job by itself.

    None where this is no job of ours: started by hand in somebody's allocation, it must not touch that.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    job = os.environ.get("SLURM_JOB_ID")
    return job if job and os.environ.get("SLURM_JOB_NAME", "").startswith(_NAME) else None


def own_node() -> str | None:
    """The node by Slurm's name."""
    return os.environ.get("SLURMD_NODENAME")


def requeue(job_id: str, *, timeout_s: float = 20.0) -> bool:
    """Put this task back into the queue; the site may refuse. Where it does not, SIGTERM comes at once."""
    done = _slurm("scontrol", "requeue", job_id, timeout_s=timeout_s)
    if done is None or done.returncode != 0:
        said = done.stderr.strip() if done is not None else "scontrol does not answer"
        logger.warning("event=requeue_refused job=%s: %s: `clipmill resume` takes its videos over", job_id, said)
        return False
    logger.warning("event=requeued job=%s", job_id)
    return True


def submitted_exclusion(job_id: str) -> list[str]:
    """The nodes that a job was submitted to stay off."""
    shown = _slurm("scontrol", "show", "job", "-o", job_id)
    found = re.search(r"\bExcNodeList=(\S+)", shown.stdout) if shown is not None and not shown.returncode else None
    if found is None or found[1] == "(null)":
        return []
    names = _slurm("scontrol", "show", "hostnames", found[1])
    return names.stdout.split() if names is not None and not names.returncode else []


def keep_off(job_ids: Iterable[str], nodes: Sequence[str]) -> None:
    """Keep what still waits of these jobs and arrays off ``nodes``, and off no others.

    An update of an array reaches its waiting tasks; for each other one Slurm says that it no longer waits.
    """
    for job_id in job_ids:
        done = _slurm("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join(nodes)}")
        if done is not None and done.returncode and _ENDED_TASKS not in done.stdout + done.stderr:
            logger.info("event=not_kept_off job=%s: %s", job_id, (done.stderr or done.stdout).strip())


def usable_nodes() -> set[str] | None:
    """Nodes of this task's partition that Slurm would start something on; None when it does not say."""
    partition = os.environ.get("SLURM_JOB_PARTITION", "")
    shown = _slurm("sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N|%t")
    if shown is None or shown.returncode:
        return None
    pairs = (line.strip().partition("|") for line in shown.stdout.splitlines() if "|" in line)
    return {node for node, _, state in pairs if not state.startswith(_NOT_USABLE)}


def _slurm(*command: str, timeout_s: float = 10.0) -> "subprocess.CompletedProcess[str] | None":
    """What a command of Slurm says; None when it is not there or does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("event=slurm_silent command=%s: %s", command[0], error)
        return None
