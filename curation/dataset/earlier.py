"""What an earlier build left that a new one can leave alone: its tars, and what each of their samples was made from."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.clip_ids import parse_id_column
from curation.dataset.catalogue import Catalogue
from curation.dataset.folder import DatasetFolder
from curation.dataset.plan_files import KeptTar
from curation.dataset.report import CATALOGUE, INDEX, KEPT_TARS, REPORT
from curation.dataset.settings import DatasetSettings

PACKED = np.dtype(
    [("id", "u8", 2), ("start", "i4"), ("end", "i4"), ("content", "u8"), ("tar", "i4")]  # tar: its place in ``tars``
)


@dataclass(frozen=True, slots=True)
class EarlierDataset:
    """Tars of an earlier build.

    Attributes:
        note: what was found, in words.
        samples: of dtype PACKED, tar by tar.
    """

    note: str
    tars: tuple[KeptTar, ...]
    samples: NDArray[Any]

    @classmethod
    def none(cls, note: str) -> "EarlierDataset":
        """Nothing that can be kept, and why."""
        return cls(note, (), np.empty(0, PACKED))

    @property
    def id(self) -> str:
        """The same for the same tars with the same samples; empty without any."""
        if not self.tars:
            return ""
        found = hashlib.sha256(json.dumps([[tar.bucket, tar.number, tar.entry] for tar in self.tars]).encode())
        found.update(self.samples.tobytes())
        return found.hexdigest()

    def without(self, places: Collection[tuple[str, int]]) -> "EarlierDataset":
        """Without the tars, by bucket and number, that another build may have replaced."""
        stays = np.array([(tar.bucket, tar.number) not in places for tar in self.tars], np.bool_)
        if stays.all():
            return self
        samples = self.samples[stays[self.samples["tar"]]]
        samples["tar"] = (np.cumsum(stays) - 1)[samples["tar"]]
        tars = tuple(tar for tar, is_kept in zip(self.tars, stays, strict=True) if is_kept)
        return EarlierDataset(f"{self.note}, {len(tars)} of them as they were", tars, samples)


def published_earlier(folder: DatasetFolder, settings: DatasetSettings, trees: Sequence[str]) -> EarlierDataset:
    """The dataset that an earlier build finished, if this one would pack its samples alike."""
    report = folder.document(REPORT)
    if report is None or not (report["is_complete"] or report[KEPT_TARS]):
        return EarlierDataset.none("no earlier dataset of a complete run")
    if difference := _difference(report, settings, trees):
        return EarlierDataset.none(f"an earlier dataset, but {difference}")
    tars = _tars(report["buckets"], lambda bucket: folder.document(f"{bucket}/{INDEX}"))
    if not folder.exists(CATALOGUE):
        return EarlierDataset.none(f"an earlier dataset without {CATALOGUE}")
    with folder.reading(CATALOGUE) as stream:
        catalogue = Catalogue(stream)
        if catalogue.dataset_id != report.get("dataset_id"):
            return EarlierDataset.none(f"an earlier dataset whose {CATALOGUE} is not its own")
        samples = _packed(catalogue, {_video_tar(tar): place for place, tar in enumerate(tars)})
    counts = np.bincount(samples["tar"][samples["tar"] >= 0], minlength=len(tars)).tolist()
    if (samples["tar"] < 0).any() or counts != [tar.entry["num_samples"] for tar in tars]:
        return EarlierDataset.none(f"an earlier dataset whose {CATALOGUE} and indexes disagree")
    return EarlierDataset(f"an earlier dataset of {len(tars)} tars", tuple(tars), samples)


def _difference(report: Mapping[str, Any], settings: DatasetSettings, trees: Sequence[str]) -> str:
    """What packs samples otherwise than the dataset of a report, in words; empty where nothing does."""
    now, then = settings.to_document(), report.get("settings", {})
    names = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
    if report.get("trees") != list(trees):
        names.append("trees")
    return f"{', '.join(names)} changed" if names else ""


def _tars(buckets: Iterable[str], index: Callable[[str], Mapping[str, Any] | None]) -> list[KeptTar]:
    return [
        KeptTar(bucket, number, entry)
        for bucket in buckets
        for number, entry in enumerate((index(bucket) or {"tars": []})["tars"])
    ]


def _video_tar(tar: KeptTar) -> str:
    """As the catalogue names a tar."""
    return f"{tar.bucket}/{tar.entry['trees']['video']['path']}"


def _packed(catalogue: Catalogue, places: Mapping[str, int]) -> NDArray[Any]:
    """The rows of a catalogue; ``tar`` is -1 where it is none of ``places``."""
    pieces = [np.empty(0, PACKED)]
    for table in catalogue.tables(["clip_uuid", "start_frame", "end_frame", "content", "tar"]):
        rows = np.empty(table.num_rows, PACKED)
        rows["id"] = parse_id_column(table["clip_uuid"])
        rows["start"], rows["end"] = table["start_frame"].to_numpy(), table["end_frame"].to_numpy()
        rows["content"] = table["content"].to_numpy()
        tars = table["tar"].combine_chunks().dictionary_encode()
        numbers = np.array([places.get(tar, -1) for tar in tars.dictionary.to_pylist()], np.int32)
        rows["tar"] = numbers[tars.indices.to_numpy()]
        pieces.append(rows)
    return np.concatenate(pieces)
