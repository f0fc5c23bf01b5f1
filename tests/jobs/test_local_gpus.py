"""Each worker of this machine has GPUs of its own, by the names that CUDA takes."""

from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.local_gpus import gpus_here, gpus_of_slots, listed_gpus, named_gpus
from jobs.submission import SubmissionError

TWO_WHOLE = """\
GPU 0: NVIDIA H200 (UUID: GPU-aaaaaaaa-1111-2222-3333-444444444444)
GPU 1: NVIDIA H200 (UUID: GPU-bbbbbbbb-1111-2222-3333-444444444444)
"""
ONE_DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaaaaaa-1111-2222-3333-444444444444)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccccccc-1111-2222-3333-444444444444)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddddddd-1111-2222-3333-444444444444)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbbbbbb-1111-2222-3333-444444444444)
"""
MIG = ["MIG-cccccccc-1111-2222-3333-444444444444", "MIG-dddddddd-1111-2222-3333-444444444444"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param(TWO_WHOLE, ["0", "1"], id="whole GPUs by number"),
        pytest.param(ONE_DIVIDED, [*MIG, "1"], id="MIG devices in place of the GPU that is divided"),
        pytest.param("No devices found.\n", [], id="none"),
    ],
)
def test_the_gpus_that_nvidia_smi_lists(text: str, names: list[str]) -> None:
    assert listed_gpus(text) == names


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", []),
        ("2,0", ["2", "0"]),
        ("0,-1,1", ["0"]),
        (" 3 , MIG-x ", ["3", "MIG-x"]),
        ("NoDevFiles,", ["NoDevFiles"]),
    ],
)
def test_the_gpus_that_cuda_would_see(visible: str, names: list[str]) -> None:
    assert named_gpus(visible) == names


def test_the_gpus_given_to_this_process_are_all_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{TWO_WHOLE}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus_here({}) == ["0", "1"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "1"}) == ["1"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == []
    program.write_text("#!/bin/sh\nexit 9\n")  # the driver is broken
    assert gpus_here({}) == []


@given(st.integers(1, 20), st.integers(1, 16), st.integers(1, 8))
def test_slots_have_gpus_of_their_own_while_there_are_enough(num_slots: int, num_gpus: int, per_task: int) -> None:
    gpus = [str(number) for number in range(num_gpus)]
    if num_gpus < per_task:
        with pytest.raises(SubmissionError, match=f"gpus_per_task={num_gpus}"):
            gpus_of_slots(num_slots, gpus, per_task)
        return
    slots = [slot.split(",") for slot in gpus_of_slots(num_slots, gpus, per_task) if slot is not None]
    assert [len(set(slot)) for slot in slots] == [per_task] * num_slots
    alone = slots[: num_gpus // per_task]
    assert len(set(chain(*alone))) == per_task * len(alone)
    uses = [sum(slot == other for other in slots) for slot in slots]
    assert max(uses) - min(uses) <= 1


def test_workers_that_want_no_gpu_see_none() -> None:
    assert gpus_of_slots(2, ["0", "1"], 0) == ["", ""]


def test_where_no_gpu_is_known_of_nothing_is_changed() -> None:
    assert gpus_of_slots(2, [], 1) == [None, None]
