"""The warning before the wall time's end goes to every process of a Slurm job."""

import signal
import subprocess

from curation.spared import processes_spared


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


def test_processes_started_while_a_signal_is_blocked_survive_it_and_others_do_not() -> None:
    with processes_spared(signal.SIGUSR2):
        spared = start()
    other = start()
    try:
        for process in (spared, other):
            process.send_signal(signal.SIGUSR2)
        assert other.wait(timeout=60) == -signal.SIGUSR2
        assert spared.poll() is None
        spared.send_signal(signal.SIGTERM)
        assert spared.wait(timeout=60) == -signal.SIGTERM
    finally:
        for process in (spared, other):
            process.kill()
            process.wait()
