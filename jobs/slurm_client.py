"""Questions and orders to Slurm's own commands, none of which may hang."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jobs.slurm import max_array_size, named_jobs
from jobs.submission import SubmissionError

_TIMEOUT_S = 60.0


def ask_max_array_size() -> int:
    """The site's MaxArraySize.

    Raises:
        SubmissionError: Slurm does not answer.
    """
    return max_array_size(_answer("scontrol", "show", "config"))


def find_named_jobs() -> dict[str, str]:
    """Ids of our user's jobs and whole arrays by name, also of those that ended a little while ago.

    Raises:
        SubmissionError: Slurm does not answer.
    """
    user = f"--user={os.geteuid()}"
    return named_jobs(_answer("squeue", "--noheader", "--states=all", user, "--format=%F|%j"))


def cancel_jobs(job_ids: Sequence[str]) -> None:
    """Cancel jobs and whole arrays; those that have ended already do not matter.

    Raises:
        SubmissionError: scancel is missing or hangs, or Slurm does not answer.
    """
    arrays = list(dict.fromkeys(job.partition("_")[0] for job in job_ids))
    for k in range(0, len(arrays), 500):  # a command line has a limit
        _answer("scancel", *arrays[k : k + 500], accepted=("Invalid job id",))


def release_after(job_id: str, dependency: str) -> None:
    """Let a held job go, after what it depends on; one that was let go and ran meanwhile stays as it is.

    Raises:
        SubmissionError: Slurm refuses or does not answer.
    """
    went = ("already completing or completed", "no longer pending")
    _answer("scontrol", "update", f"JobId={job_id}", f"Dependency={dependency}", accepted=went)
    _answer("scontrol", "release", job_id, accepted=went)


def _answer(*command: str, accepted: Sequence[str] = ()) -> str:
    """What a command prints; an error with one of the ``accepted`` texts is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except FileNotFoundError:
        raise SubmissionError(f"{command[0]} is not on PATH: is this a node of the cluster?") from None
    except subprocess.TimeoutExpired:
        raise SubmissionError(f"{command[0]} did not answer within {_TIMEOUT_S:.0f} s; try again later") from None
    said = done.stderr.strip()
    if done.returncode and not any(text in said for text in accepted):
        raise SubmissionError(f"Slurm does not answer: {said or ' '.join(command) + ' failed'}")
    return done.stdout


@contextmanager
def outside_any_job() -> Iterator[None]:
    """Submit as from a login node, also from inside a job: its own limits must not reach the new ones."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "SBATCH_"))}
    for name in inherited:
        if name != "SLURM_CONF":  # where the cluster is found
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inherited)
