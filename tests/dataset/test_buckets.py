"""Bucket names against the table of docs/rules.md, Training dataset."""

import hashlib
from typing import Any

import pytest

from curation.bucket_bins import ASPECT_RATIO_BINS
from curation.dataset import DatasetSettings
from curation.dataset.buckets import aspect_ratio_name, bucket_folder, duration_bins, resolution_name, split_of


@pytest.mark.parametrize(
    ("width", "height", "name"),
    [
        pytest.param(1920, 1080, "1080", id="full hd"),
        pytest.param(1080, 1920, "1080", id="the shorter side counts, upright too"),
        pytest.param(3840, 2160, "1080", id="what is larger is in the highest bin"),
        pytest.param(1920, 1078, "720", id="two lines less"),
        pytest.param(1280, 720, "720", id="hd"),
        pytest.param(720, 576, "lt_720", id="pal"),
    ],
)
def test_the_resolution_is_named_by_the_shorter_side(width: int, height: int, name: str) -> None:
    assert resolution_name(width, height, bins=(1080, 720)) == name


def test_other_bins_give_other_names() -> None:
    assert [resolution_name(900, side, bins=(480, 240)) for side in (480, 479, 239)] == ["480", "240", "lt_240"]


@pytest.mark.parametrize(
    ("width", "height", "name"),
    [
        pytest.param(1080, 1920, "9_16", id="a phone held upright"),
        pytest.param(650, 1000, "9_16", id="0.65 still"),
        pytest.param(651, 1000, "3_4", id="above 0.65"),
        pytest.param(880, 1000, "3_4", id="0.88 still"),
        pytest.param(881, 1000, "1_1", id="above 0.88"),
        pytest.param(1160, 1000, "1_1", id="1.16 still"),
        pytest.param(1161, 1000, "4_3", id="above 1.16"),
        pytest.param(1550, 1000, "4_3", id="1.55 still"),
        pytest.param(1551, 1000, "16_9", id="above 1.55"),
        pytest.param(4000, 1000, "16_9", id="as wide as can be"),
    ],
)
def test_the_aspect_ratio_is_named_by_width_to_height(width: int, height: int, name: str) -> None:
    assert aspect_ratio_name(width, height, bins=ASPECT_RATIO_BINS) == name


def test_other_aspect_ratios_have_their_own_names() -> None:
    bins = (("upright", 1.0), ("wide", 2.4), ("scope", None))
    assert [aspect_ratio_name(width, 10, bins=bins) for width in (9, 10, 11, 24, 25)] == [
        *("upright", "upright", "wide", "wide", "scope")
    ]


@pytest.mark.parametrize(
    ("duration_s", "folder"),
    [
        pytest.param(4.9, "duration_0_5", id="shorter than any of Cosmos-Curate's bins"),
        pytest.param(5.0, "duration_5_10", id="its first bin begins with 5 s"),
        pytest.param(10.0, "duration_5_10", id="10 s are still in the first"),
        pytest.param(300 * (1 / 30), "duration_5_10", id="300 frames at 30 per second are 10 s"),
        pytest.param(300 / (30000 / 1001), "duration_10_30", id="at 29.97 per second they are longer"),
        pytest.param(30.0, "duration_10_30", id="30 s are in the second"),
        pytest.param(1e6, "duration_30_inf", id="the last has no end"),
    ],
)
def test_the_duration_axis_has_the_bins_of_cosmos_curate_and_one_below(duration_s: float, folder: str) -> None:
    settings = DatasetSettings(bucket_axis="duration")
    (place,) = duration_bins([duration_s], bins=settings.duration_bins_s)
    assert bucket_folder("train", "720", "16_9", int(place), settings).rpartition("/")[2] == folder


def test_the_folder_of_a_bucket() -> None:
    assert bucket_folder("train", "lt_720", "4_3", 1, DatasetSettings()) == (
        "resolution_lt_720/aspect_ratio_4_3/frames_256_511"
    )


def test_with_a_split_buckets_are_below_its_name() -> None:
    folder = bucket_folder("val", "1080", "16_9", 0, DatasetSettings(val_fraction=0.1))
    assert folder == "val/resolution_1080/aspect_ratio_16_9/frames_0_255"


def test_the_split_is_decided_by_the_first_64_bits_of_the_hash_of_the_video() -> None:
    fraction = int(hashlib.sha256(b"web/a.mp4").hexdigest()[:16], 16) / 2**64
    assert split_of("web/a.mp4", fraction * 1.001) == "val"
    assert split_of("web/a.mp4", fraction * 0.999) == "train"


def test_a_tenth_of_the_videos_is_about_a_tenth() -> None:
    num_val = sum(split_of(f"video-{number}", 0.1) == "val" for number in range(10_000))
    assert abs(num_val - 1000) < 5 * (10_000 * 0.1 * 0.9) ** 0.5  # five standard deviations of a binomial


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        pytest.param({"resolution_bins": (720, 1080)}, "fall", id="rising resolutions"),
        pytest.param({"resolution_bins": ()}, "fall", id="no resolution"),
        pytest.param({"duration_bins_s": (10.0, 5.0)}, "rise", id="falling durations"),
        pytest.param({"duration_bins_s": (0.0, 5.0)}, "positive", id="a bin that begins with nothing"),
        pytest.param({"aspect_ratio_bins": (("a", 1.0), ("b", 2.0))}, "last be null", id="nothing for wider ones"),
        pytest.param({"aspect_ratio_bins": (("a", 2.0), ("b", 1.0), ("c", None))}, "rise", id="falling ratios"),
        pytest.param({"aspect_ratio_bins": (("a", 1.0), ("a", None))}, "name of its own", id="one name twice"),
        pytest.param({"aspect_ratio_bins": (("16:9", None),)}, "name of its own", id="a name that is no folder"),
        pytest.param({"val_fraction": 1.0}, "below 1", id="nothing to train on"),
    ],
)
def test_bins_that_leave_a_window_without_a_place_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DatasetSettings(**settings)


def test_settings_survive_a_document() -> None:
    settings = DatasetSettings(val_fraction=0.25, resolution_bins=(480,), aspect_ratio_bins=(("a", 1.5), ("b", None)))
    assert DatasetSettings.from_document(settings.to_document()) == settings
