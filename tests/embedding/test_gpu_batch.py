"""How many clips fit the memory that a model was given."""

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.embedding.errors import EmbeddingStartError
from curation.embedding.gpu_batch import clips_that_fit
from curation.gpu import GpuMemory, rounded_up_gb

GB = 10**9


class Gpu:
    """Takes so much for the weights and for each clip, and counts how often it was tried."""

    def __init__(
        self, weights: int, clip: int, *, has: int = 1000 * GB, extra_from: int = 10**9, extra: int = 0
    ) -> None:
        self.weights, self.clip, self.has = weights, clip, has
        self.extra_from, self.extra = extra_from, extra
        self.num_runs = 0

    def peak_bytes(self, num_clips: int) -> int | None:
        self.num_runs += 1
        peak = self.weights + num_clips * self.clip + (self.extra if num_clips >= self.extra_from else 0)
        return peak if peak <= self.has else None


@given(st.integers(0, 20 * GB), st.integers(1, 3 * GB), st.floats(0.1, 80), st.integers(1, 200))
def test_the_batch_fits_and_one_more_clip_would_not(weights: int, clip: int, bound_gb: float, most: int) -> None:
    gpu = Gpu(weights, clip)
    if weights + clip > int(bound_gb * GB):
        with pytest.raises(EmbeddingStartError):
            clips_that_fit(bound_gb, gpu.peak_bytes, name="m", most=most)
        return
    number = clips_that_fit(bound_gb, gpu.peak_bytes, name="m", most=most)
    assert 1 <= number <= most
    assert weights + number * clip <= bound_gb * GB
    assert number == most or weights + (number + 1) * clip > int(bound_gb * GB)
    assert gpu.num_runs <= 3


def test_what_does_not_fit_fails_with_the_number_that_would() -> None:
    gpu = Gpu(4 * GB, GB // 4)
    with pytest.raises(EmbeddingStartError, match=r"4\.25 GB .* gpu_memory_gb is 3; 4\.3 would do"):
        clips_that_fit(3, gpu.peak_bytes, name="m")
    assert clips_that_fit(4.3, gpu.peak_bytes, name="m") == 1


def test_a_batch_that_takes_more_than_the_line_says_is_made_smaller() -> None:
    gpu = Gpu(GB, GB // 10, extra_from=20, extra=5 * GB)
    number = clips_that_fit(5, gpu.peak_bytes, name="m")
    assert 10 <= number < 20  # 40 by the line, but from 20 clips on there are 5 GB more


def test_a_gpu_that_has_less_than_it_was_promised_gets_a_batch_that_it_can_hold() -> None:
    assert Gpu(GB, GB, has=12 * GB).peak_bytes(clips_that_fit(40, Gpu(GB, GB, has=12 * GB).peak_bytes, name="m"))


def test_a_gpu_that_is_full_says_so() -> None:
    with pytest.raises(EmbeddingStartError, match="too little free memory for one clip"):
        clips_that_fit(40, Gpu(GB, GB, has=GB).peak_bytes, name="m")


def test_gigabytes_are_rounded_up() -> None:
    assert [rounded_up_gb(size) for size in (4 * GB, 4 * GB + 1, int(4.25 * GB))] == [4.0, 4.1, 4.3]


def test_a_real_gpu_is_measured() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    memory = GpuMemory()

    def take(num_bytes: int) -> int | None:
        return memory.peak_bytes(lambda: torch.empty(num_bytes, dtype=torch.uint8, device="cuda"))

    assert take(10**8) == pytest.approx(10**8, rel=0.1)
    assert take(4 * 10**8) == pytest.approx(4 * 10**8, rel=0.1)
    assert take(10**13) is None
