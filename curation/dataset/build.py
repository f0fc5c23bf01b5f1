"""Building the training dataset of a split run: all tars are planned, then written sample by sample."""

import json
import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from curation import layout
from curation.dataset.account import Account
from curation.dataset.buckets import RESOLUTION_BINS, Bucket
from curation.dataset.catalogue import CatalogueWriter, caption_of, catalogue_writer
from curation.dataset.content import SampleContent, read_sample
from curation.dataset.metas import MetasAside
from curation.dataset.packing import LeftOut, TarPlan, WindowSample, plan_tars, samples_of
from curation.dataset.report import (
    BUCKET_LIST,
    BUILDING,
    CATALOGUE,
    INDEX,
    REPORT,
    TREES,
    WDINFO,
    DatasetReport,
    PackedBucket,
    PackedTar,
    bucket_list,
    files_of_index,
    index_document,
    report_document,
    wdinfo_document,
)
from curation.dataset.tars import Member, TarWriter
from curation.documents import to_json
from curation.storage import Storage, read_ahead
from curation.video.encode import EncoderSettings

logger = logging.getLogger(__name__)

_READERS = 16  # reading a clip is waiting, mostly
_BYTES_AHEAD = 256 * 2**20  # of clips and the windows cut from them


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """How windows are packed.

    Attributes:
        annotation_version: which metas go in; the folder of the dataset.
        target_tar_size_mb: MiB of mp4 in one tar.
        max_tars_per_part: tars in one part folder.
        min_clips_per_tar: a bucket's last tar with fewer samples joins the one before.
        drop_small_shards: leave out, and list, a bucket of fewer than ``min_clips_per_tar`` samples.
        resolution_bins: names and lower bounds of the shorter side, falling.
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
    preset: str = "superfast"
    crf: int = 23

    def __post_init__(self) -> None:
        if self.target_tar_size_mb <= 0 or self.max_tars_per_part < 1:
            sizes = f"{self.target_tar_size_mb} and {self.max_tars_per_part}"
            raise ValueError(f"target_tar_size_mb and max_tars_per_part must be positive, got {sizes}")
        falling = sorted(set(self.resolution_bins), reverse=True)
        if not falling or list(self.resolution_bins) != falling or falling[-1] <= 0:
            raise ValueError(f"resolution_bins must be positive and fall, got {self.resolution_bins}")

    @property
    def target_bytes(self) -> int:
        """Bytes of mp4 in one tar."""
        return round(self.target_tar_size_mb * 2**20)


def build_dataset(
    chunks: Iterable[Mapping[str, Any]], *, clips: Storage, output: Storage, settings: DatasetSettings
) -> DatasetReport:
    """Write the training dataset of a split run; the same run gives the same bytes, in whatever order it comes.

    The tars of a bucket come first, its index after them, the catalogue and the report last; then what an earlier
    build left and this one has no use for is removed. What can't be read or cut is left out and listed.

    Args:
        chunks: the chunk documents of all videos that are done (``layout.clip_chunk``).
        clips: the output of the split run.
        output: the root of the datasets; this one is in the folder of its annotation version.

    Raises:
        ValueError: a clip is listed twice.
        StorageError: what is at ``output`` is then not to be used: ``building.json`` is there.
    """
    build = _Build(clips, output, settings)
    plan = build.plan(chunks)
    leftovers = build.begin(plan)
    packed = build.write_catalogued(plan)
    report = build.account.report(packed)
    build.publish(report)
    build.remove(leftovers - set(report.files))
    return report


class _Build:
    """One build of one dataset."""

    def __init__(self, clips: Storage, output: Storage, settings: DatasetSettings) -> None:
        self._clips, self._output, self._settings = clips, output, settings
        self._metas = MetasAside()
        self.account = Account()

    def plan(self, chunks: Iterable[Mapping[str, Any]]) -> dict[Bucket, list[TarPlan]]:
        """Which samples go into which tar."""
        settings = self._settings
        samples: list[WindowSample] = []
        for chunk in chunks:
            for entry in chunk["clips"]:
                self.account.expect(entry)
            found, left_out = samples_of(
                chunk["clips"],
                video_id=chunk["video_id"],
                resolution_bins=settings.resolution_bins,
                meta_places=self._keep_metas(chunk["clips"]),
            )
            samples += found
            self.account.left_out += left_out
        self._metas.settle()
        plan, left_out = plan_tars(
            samples,
            target_bytes=settings.target_bytes,
            min_clips_per_tar=settings.min_clips_per_tar,
            drop_small=settings.drop_small_shards,
            seed=settings.shuffle_seed,
        )
        self.account.left_out += left_out
        return plan

    def _keep_metas(self, entries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        """Set aside the metas that a list has of this annotation version; gives their places by uuid of clip."""
        version = self._settings.annotation_version
        return {
            entry["uuid"]: self._metas.add(entry["metas"][version])
            for entry in entries
            if entry["windows"] and version in entry.get("metas", ())
        }

    def begin(self, plan: Mapping[Bucket, list[TarPlan]]) -> set[str]:
        """Note down every file that this build or one before it may leave, before any of them is touched."""
        files = set((self._read(BUILDING) or {}).get("files", ()))
        for folder in (self._read(REPORT) or {}).get("buckets", ()):
            files.update(files_of_index(self._read(f"{folder}/{INDEX}") or {"bucket": folder, "tars": []}))
        for bucket, tars in plan.items():
            paths = (path for index in range(len(tars)) for path in self._tar_paths(index).values())
            files.update(f"{bucket.folder}/{path}" for path in (*paths, INDEX, WDINFO))
        self._write(BUILDING, to_json({"files": sorted(files)}))
        return files

    def write_catalogued(self, plan: Mapping[Bucket, list[TarPlan]]) -> list[PackedBucket]:
        """Write the buckets, and the catalogue once they are all there."""
        with self._output.writing(self._path(CATALOGUE)) as stream, catalogue_writer(stream) as catalogue:
            packed = (self._write_bucket(bucket, tars, catalogue) for bucket, tars in plan.items())
            return [bucket for bucket in packed if bucket.tars]

    def publish(self, report: DatasetReport) -> None:
        """Write what describes the whole dataset."""
        self._write(BUCKET_LIST, bucket_list(report.buckets))
        self._write(REPORT, to_json(report_document(report, asdict(self._settings))))

    def remove(self, files: Iterable[str]) -> None:
        """Remove what is of no use any more, and with it the note that a build is under way."""
        self._output.delete_many(map(self._path, sorted(files)))
        self._output.delete(self._path(BUILDING))

    def _write_bucket(self, bucket: Bucket, plans: list[TarPlan], catalogue: CatalogueWriter) -> PackedBucket:
        tars: list[PackedTar] = []
        for plan in plans:
            tar = self._write_tar(bucket, plan, len(tars), catalogue)
            tars += [tar] if tar is not None else []  # numbers stay dense
        packed = PackedBucket(bucket, tuple(tars))
        if tars:
            self._write(f"{bucket.folder}/{WDINFO}", to_json(wdinfo_document(packed)))
            self._write(f"{bucket.folder}/{INDEX}", to_json(index_document(packed)))
        logger.info(
            "event=bucket bucket=%s samples=%d tars=%d bytes=%d left_out=%d",
            bucket.folder,
            packed.num_samples,
            len(tars),
            packed.num_bytes,
            sum(len(plan.samples) for plan in plans) - packed.num_samples,
        )
        return packed

    def _write_tar(self, bucket: Bucket, plan: TarPlan, index: int, catalogue: CatalogueWriter) -> PackedTar | None:
        """Write a tar of each tree together; None when not one sample of the plan can be had."""
        with closing(self._contents(plan)) as contents:
            first = next(contents, None)
            return None if first is None else self._write_contents(bucket, first, contents, index, catalogue)

    def _write_contents(
        self,
        bucket: Bucket,
        first: tuple[WindowSample, SampleContent],
        others: Iterable[tuple[WindowSample, SampleContent]],
        index: int,
        catalogue: CatalogueWriter,
    ) -> PackedTar:
        paths = self._tar_paths(index)
        mp4_bytes = 0
        with ExitStack() as whole_or_not_at_all:
            tars = {}
            for tree, path in paths.items():
                stream = whole_or_not_at_all.enter_context(self._output.writing(self._path(f"{bucket.folder}/{path}")))
                tars[tree] = TarWriter(stream)
            for sample, content in chain([first], others):
                member = _add(tars, sample, content)
                catalogue.add(sample, content, tar=f"{bucket.folder}/{paths['video']}", member=member)
                self.account.packed_clips.add(sample.clip_uuid)
                self.account.num_without_caption += caption_of(content.window) is None
                mp4_bytes += member.size
            digests = {tree: tar.finish() for tree, tar in tars.items()}
        return PackedTar(paths, digests, mp4_bytes)

    def _contents(self, plan: TarPlan) -> Generator[tuple[WindowSample, SampleContent], None, None]:
        """The samples of a tar in order; those to come are read and cut meanwhile."""
        version = self._settings.annotation_version
        encoder = EncoderSettings("libx264", self._settings.preset, self._settings.crf)

        def read(sample: WindowSample) -> SampleContent | LeftOut:
            return read_sample(self._clips, sample, annotation_version=version, encoder=encoder, metas=self._metas)

        contents = read_ahead(
            read,
            plan.samples,
            num_threads=_READERS,
            at_most=_BYTES_AHEAD,
            weight=lambda sample: sample.clip_bytes + sample.num_bytes,
        )
        for sample, content in zip(plan.samples, contents, strict=True):
            if isinstance(content, LeftOut):
                logger.warning("event=left_out key=%s reason=%s", sample.key, content.reason)
                self.account.left_out.append(content)
            else:
                yield sample, content

    def _tar_paths(self, index: int) -> dict[str, str]:
        most = self._settings.max_tars_per_part
        return {tree: layout.tar(tree, index, max_tars_per_part=most) for tree in TREES}

    def _path(self, path: str) -> str:
        return f"{self._settings.annotation_version}/{path}"

    def _write(self, path: str, content: bytes) -> None:
        self._output.write(self._path(path), content)

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(self._output.read(self._path(path)))
        except FileNotFoundError:
            return None
        return document


def _add(tars: Mapping[str, TarWriter], sample: WindowSample, content: SampleContent) -> Member:
    """Append a sample to the tar of each tree; gives where its mp4 lies."""
    tars["metas"].add(f"{sample.key}.json", to_json(content.meta))
    return tars["video"].add(f"{sample.key}.mp4", content.mp4)
