"""Every benchmark runs; whether it reaches its goal is no matter for a shared machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.captioning.tiny_models import require_vllm

PARTS = {"cost_cases", "harness", "montage", "peer_like", "replay", "test_alive", "whole_pipeline"}  # of benchmarks
NAMES = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if p.stem not in PARTS)


NEED_VLLM = {"caption_queue"}


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_ends_with_its_verdict(name: str) -> None:
    if name in NEED_VLLM:
        require_vllm()
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--size", "tiny"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=240, check=False
    )
    assert done.returncode in {0, 1}, done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(rf"{name}: \d+(\.\d+)? \(goal [<>]= [\d.]+\)", last), done.stdout + done.stderr
