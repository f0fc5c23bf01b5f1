"""Search in what a run made: whose vectors, what is looked for, and what is known of the clips that are found."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import yaml
from numpy.typing import NDArray

from curation import layout
from curation.embedding.efficientnet_lite import MODEL_NAME as EFFICIENTNET
from curation.embedding.stages import ClipEmbeddingStage, EmbeddingFrameCreationStage
from curation.embedding.text_match import unit_vectors
from curation.errors import VideoError
from curation.model import Clip, Video, VideoTask
from curation.registry import EMBEDDERS
from curation.search import Neighbour, VectorIndex
from curation.storage import Storage, locate, read_ahead, storage_for
from curation.training_caption import caption_of
from curation.video.probe import probe_bytes
from jobs.clip_settings import FilterSettings
from jobs.config import RunConfig, load_config
from jobs.model_settings import CaptionSettings
from jobs.model_stages import embedding_names, frame_stages, measuring_stages
from jobs.rundir import RunDir
from jobs.stages import provenance

_READERS = 8


class SearchError(ValueError):
    """What is asked for can't be looked for; the message says why and what would do."""


@dataclass(frozen=True, slots=True)
class FoundClip:
    """A clip that was found, and what its meta says; ``meta`` is empty where it has none of that version."""

    rank: int
    cosine: float
    uuid: UUID
    meta: dict[str, Any]
    root: str

    @property
    def path(self) -> str:
        """The clip's mp4."""
        return f"{self.root}/{self.meta.get('clip_location') or layout.clip(self.uuid)}"

    @property
    def captions(self) -> list[dict[str, Any]]:
        """Of each window with a caption its first and last frame, and the caption."""
        windows = self.meta.get("windows", [])
        found = [(window, caption_of(window)) for window in windows]
        return [
            {"start_frame": window["start_frame"], "end_frame": window["end_frame"], "caption": caption}
            for window, caption in found
            if caption is not None
        ]

    def previews(self) -> Iterator[str]:
        """Where the previews of its windows are, if there are any, relative to the output's root."""
        for window in self.meta.get("windows", []):
            yield layout.preview(self.uuid, window["start_frame"], window["end_frame"])

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rank": self.rank,
            "cosine": self.cosine,
            "uuid": str(self.uuid),
            "source_video": self.meta.get("source_video"),
            "video_id": self.meta.get("video_id"),
            "span": self.meta.get("duration_span"),
            "captions": self.captions,
            "clip": self.path,
        }


def search_config(place: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of a run folder, of a YAML file, or, for the folder or prefix of clips, those by default.

    Raises:
        ConfigError, RunDirError: they are wrong.
        SearchError: there is no such place.
    """
    path = Path(place).expanduser()
    if "://" not in place and (path / "run.yaml").is_file():
        run = RunDir(path.absolute())
        run.load_config()
        return load_config(run.config_path, overrides)
    if "://" not in place and path.is_file():
        return load_config(path, overrides)
    if "://" not in place and not path.is_dir():
        raise SearchError(f"{place} is no run folder, no YAML file of a run and no folder of clips")
    settings = {"run_dir": ".", "manifest": "none", "output_clip_path": place, "cluster": "local"}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(settings, file, allow_unicode=True)
        file.flush()
        return load_config(Path(file.name), overrides)


def config_of_model(config: RunConfig, clips: Storage, asked: str | None) -> RunConfig:
    """The same settings for the one model whose vectors are searched, and nothing else that looks at clips.

    Args:
        asked: the model, or the folder of its vectors; None: the run's, or the only one that there is.

    Raises:
        SearchError: there are no vectors, of several models, or not of this one.
    """
    folders = {name: folder_of(_only(config, name)) for name in EMBEDDERS}
    names = {folder: name for name, folder in folders.items()}
    there = [name for name, folder in folders.items() if any(True for _ in clips.list(f"{folder}_parquet/"))]
    if asked is not None:
        name = names.get(asked.removesuffix("_parquet"), asked)
        if name not in there:
            raise SearchError(f"no vectors of {asked!r} in {clips.root}; there are: {', '.join(there) or 'none'}")
        return _only(config, name)
    own = config.embeddings.embedding_algorithm
    if config.embeddings.generate_embeddings and own in there:
        return _only(config, own)
    if len(there) != 1:
        mend = "choose with --embedding" if there else "a run with the group embeddings makes them"
        raise SearchError(f"vectors of {len(there)} models in {clips.root} ({', '.join(there) or 'none'}); {mend}")
    return _only(config, there[0])


def _only(config: RunConfig, name: str) -> RunConfig:
    asked = {"generate_embeddings": True, "embedding_algorithm": name, "texts_to_verify": []}
    groups = {
        "filters": FilterSettings(),
        "captions": CaptionSettings(generate_captions=False),
        "embeddings": config.embeddings.model_copy(update=asked),
    }
    return config.model_copy(update=groups)


def folder_of(config: RunConfig) -> str:
    """Where the vectors of the config's model are, without ``_parquet``."""
    (folder,) = embedding_names(config).values()
    return folder


def text_vector(config: RunConfig, text: str) -> NDArray[np.float32]:
    """What the model's text side makes of a text, float32, shape (dimensions,), of length 1.

    Raises:
        SearchError: it can't be made.
        EmbeddingStartError: the model can't be loaded.
        FileNotFoundError: the weights are missing.
    """
    name = config.embeddings.embedding_algorithm
    if not text.strip():
        raise SearchError("the text is empty")
    if name == EFFICIENTNET:
        raise SearchError(f"{name} knows no texts: search with --like, or embed with Cosmos-Embed1 or InternVideo2")
    return _unit(_embedder(config).load().text_vectors([text]), f"the text {text!r}")


def file_vector(config: RunConfig, file: str) -> NDArray[np.float32]:
    """What the model makes of a video file, local or ``s3://``, as ``text_vector``.

    Raises:
        SearchError: the file is no video.
        EmbeddingStartError, FileNotFoundError: as ``text_vector``, or there is no such file.
    """
    content = _content(config, file)
    try:
        duration_s = float(probe_bytes(content, name=file).timeline.duration)
    except VideoError as error:
        raise SearchError(f"{file} can't be embedded: {error.reason}: {error.message}") from error
    clip = Clip(UUID(int=0), file, (0.0, duration_s), buffer=content)
    (frames_stage,) = frame_stages(config)
    assert isinstance(frames_stage, EmbeddingFrameCreationStage)
    list(frames_stage.process(VideoTask("query", "search", Video(file, clips=[clip]))))
    frames = getattr(clip, frames_stage.frames_field)
    if frames is None:
        raise SearchError(f"{file} can't be embedded: {', '.join(clip.errors.values())}")
    return _unit(_embedder(config).load().video_vectors(frames[np.newaxis]), file)


def _content(config: RunConfig, file: str) -> bytes:
    if "://" not in file:
        return Path(file).expanduser().read_bytes()
    storage, path = locate(file, config.output_s3)
    return storage.read(path)


def _embedder(config: RunConfig) -> ClipEmbeddingStage:
    (stage,) = measuring_stages(config)
    assert isinstance(stage, ClipEmbeddingStage)
    return stage


def _unit(vectors: NDArray[np.float32], of: str) -> NDArray[np.float32]:
    (unit,) = unit_vectors(vectors)
    if unit is None:
        raise SearchError(f"the model gives no numbers for {of}")
    return unit


def other_weights(config: RunConfig, index: VectorIndex) -> str | None:
    """In words, that the vectors in the tables were made by other weights than those that are here."""
    name = config.embeddings.embedding_algorithm
    told, here = index.metadata.get("model"), provenance(config)["models"][name]
    if told in {None, here}:
        return None
    return f"the vectors were made by {told}, and here is {here}: what is found may mean nothing"


def clips_found(clips: Storage, neighbours: Sequence[Neighbour], *, version: str) -> list[FoundClip]:
    """What the output says of the clips, in the same order."""

    def read(neighbour: Neighbour) -> dict[str, Any]:
        try:
            meta: dict[str, Any] = json.loads(clips.read(layout.meta(neighbour.clip, version)))
        except FileNotFoundError:
            return {}
        return meta

    metas = read_ahead(read, neighbours, num_threads=_READERS, at_most=8 * _READERS)
    return [
        FoundClip(rank, neighbour.cosine, neighbour.clip, meta, clips.root)
        for rank, (neighbour, meta) in enumerate(zip(neighbours, metas, strict=True), start=1)
    ]


def storage_of(config: RunConfig) -> Storage:
    """Where the clips are."""
    return storage_for(config.output_clip_path, config.output_s3)
