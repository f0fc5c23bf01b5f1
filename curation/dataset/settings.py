"""How a training dataset is made. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from curation.bucket_bins import ASPECT_RATIO_BINS, DURATION_BINS_S, RESOLUTION_BINS, BucketAxis, check_bins


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """How windows are packed. Two datasets whose settings are equal hold equal samples in equal order.

    Attributes:
        annotation_version: which metas go in; the folder of the dataset.
        target_tar_size_mb: MiB of mp4 in one tar.
        max_tars_per_part: tars in one part folder.
        min_clips_per_tar: a bucket's last tar with fewer samples joins the one before.
        drop_small_shards: leave out, and list, a bucket of fewer than ``min_clips_per_tar`` samples.
        resolution_bins: names and lower bounds of the shorter side, falling.
        aspect_ratio_bins: (name, width / height up to and with which it goes) rising; the last has the bound None.
        bucket_axis: the third axis: where in its clip a window begins (frames), or how long it is (duration).
        duration_bins_s: where a bin of the duration axis begins, rising; one for what is shorter stands before them.
        val_fraction: share of the videos that go to ``val``; with 0 there is no split.
        t5: whether there are T5 vectors in the dataset; None: where a clip has some.
        preset: of libx264, for the frames at the ends of a window that no key frame covers (smart-copied clips).
        crf: of libx264, for the same.
    """

    annotation_version: str = "v0"
    target_tar_size_mb: float = 500.0
    max_tars_per_part: int = 100
    min_clips_per_tar: int = 0
    drop_small_shards: bool = False
    shuffle_seed: int = 0
    resolution_bins: tuple[int, ...] = RESOLUTION_BINS
    aspect_ratio_bins: tuple[tuple[str, float | None], ...] = ASPECT_RATIO_BINS
    bucket_axis: BucketAxis = "frames"
    duration_bins_s: tuple[float, ...] = DURATION_BINS_S
    val_fraction: float = 0.0
    t5: bool | None = None
    preset: str = "superfast"
    crf: int = 23

    def __post_init__(self) -> None:
        if self.target_tar_size_mb <= 0 or self.max_tars_per_part < 1:
            sizes = f"{self.target_tar_size_mb} and {self.max_tars_per_part}"
            raise ValueError(f"target_tar_size_mb and max_tars_per_part must be positive, got {sizes}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be at least 0 and below 1, got {self.val_fraction}")
        check_bins(self.resolution_bins, self.aspect_ratio_bins, self.duration_bins_s)

    @property
    def target_bytes(self) -> int:
        """Bytes of mp4 in one tar."""
        return round(self.target_tar_size_mb * 2**20)

    def to_document(self) -> dict[str, Any]:
        """As JSON has it: lists instead of tuples."""
        return {name: _listed(value) for name, value in asdict(self).items()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "DatasetSettings":
        """What ``to_document`` gave. Raises TypeError when it has a key that is none of ours."""
        return cls(**{name: _tupled(value) for name, value in document.items()})


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(each) for each in value) if isinstance(value, list) else value
