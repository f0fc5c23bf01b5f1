"""submitit's executor with a command in place of a pickled function."""

import contextlib
import io
import sys
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from jobs.sbatch import Options
from jobs.submission import SubmissionError

# the kernel ends sbatch with its launcher: one left behind would queue what the next launcher believes unqueued
_ENDS_WITH_US = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"


class CommandExecutor(submitit.SlurmExecutor):  # type: ignore[misc]  # submitit's types are not followed
    """Queues a command, alone or as an array, through submitit's sbatch script.

    submitit writes a task's pickle after sbatch took the job: a launcher that dies between the two leaves tasks that
    can't start. A command has all that it needs in the script.
    """

    def __init__(self, folder: Path, options: Options, *, setup: list[str], srun_arguments: list[str]) -> None:
        super().__init__(folder=folder)
        options = {"signal": "TERM@1", **options}  # else submitit asks for a USR2, which would end the job early
        self.update_parameters(
            job_name=options.pop("job-name"),
            wckey=None,
            setup=setup or None,
            srun_args=srun_arguments,
            stderr_to_stdout=True,
            additional_parameters=options,
        )

    def queue(self, command: str, *, num_tasks: int | None = None, throttle: int = 1) -> str:
        """Queue a job, or an array of ``num_tasks`` of which ``throttle`` run at once; gives its id.

        Raises:
            SubmissionError: with what sbatch said.
        """
        self._size(num_tasks, throttle)
        Path(self.folder).mkdir(parents=True, exist_ok=True)  # for the logs: Slurm makes no folders
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what the error says, too
                return str(self._submit_command(command).job_id)
        except (FailedJobError, OSError) as error:
            raise SubmissionError(str(error)) from error
        finally:  # what was written aside for sbatch; the script itself is kept under the job's id
            for path in Path(self.folder).glob(".submission_file_*.sh"):
                path.unlink(missing_ok=True)

    def text(self, command: str, *, num_tasks: int | None = None, throttle: int = 1) -> str:
        """The script that ``queue`` gives to sbatch."""
        self._size(num_tasks, throttle)
        return str(self._make_submission_file_text(command, ""))

    def _size(self, num_tasks: int | None, throttle: int) -> None:
        if num_tasks is not None:
            self.parameters |= {"map_count": num_tasks, "array_parallelism": throttle}

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", _ENDS_WITH_US, "sbatch", str(submission_file_path)]
