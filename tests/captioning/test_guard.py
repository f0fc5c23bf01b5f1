import subprocess
import sys

import pytest

from curation.captioning.engines.guard import Guard
from tests.patience import PATIENCE_S

_SETS_A_GUARD_AND_DIES = """
import os, sys
from curation.captioning.engines.guard import Guard
guard = Guard([int(pid) for pid in sys.argv[1:]])
os.kill(os.getpid(), 9)
"""


def test_processes_end_with_the_one_that_is_killed_without_a_warning() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    guarded = [gone, *(subprocess.Popen(["sleep", "60"]) for _ in range(2))]
    subprocess.run([sys.executable, "-c", _SETS_A_GUARD_AND_DIES, *(str(one.pid) for one in guarded)], check=False)
    assert [one.wait(timeout=PATIENCE_S) for one in guarded] == [0, -9, -9]


def test_a_dismissed_guard_ends_nobody() -> None:
    guarded = subprocess.Popen(["sleep", "60"])
    Guard([guarded.pid]).dismiss()
    with pytest.raises(subprocess.TimeoutExpired):
        guarded.wait(timeout=0.2)
    guarded.kill()
    guarded.wait()
