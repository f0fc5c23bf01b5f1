"""How engines are laid on GPUs."""

import pytest

from curation.captioning.engines.start import engine_share, gpu_groups, gpus_for
from curation.captioning.requests import EngineStartError


def test_an_engine_may_fill_what_other_models_leave() -> None:
    # 0.85 of 80 GB is 68 GB; other models reserve 8 GB of that: 60 GB are 0.75
    assert engine_share(0.85, reserved_gb=8.0, gpu_gb=80.0) == pytest.approx(0.75)


def test_models_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(EngineStartError, match="nothing is left"):
        engine_share(0.85, reserved_gb=70.0, gpu_gb=80.0)


@pytest.mark.parametrize(
    ("weights_gb", "share_gb", "expected"),
    [
        pytest.param(16.6, 68.0, 1, id="7 billion parameters on one GPU of 80 GB"),
        pytest.param(16.6, 20.4, 2, id="7 billion parameters on two GPUs of 24 GB"),
        pytest.param(29.5, 20.4, 4, id="14 billion parameters: three would hold them, heads split by powers of two"),
    ],
)
def test_as_few_gpus_as_hold_the_weights_share_a_model(weights_gb: float, share_gb: float, expected: int) -> None:
    assert gpus_for(weights_gb, share_gb=share_gb) == expected


def test_a_small_model_gets_a_copy_on_each_gpu_and_a_big_one_its_groups() -> None:
    assert gpu_groups(["0", "1", "2", "3"], num_each=1) == ["0", "1", "2", "3"]
    assert gpu_groups(["4", "5", "6", "7"], num_each=2) == ["4,5", "6,7"]
    assert gpu_groups(["0", "1", "2"], num_each=2) == ["0,1"]
