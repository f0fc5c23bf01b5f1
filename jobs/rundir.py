"""The run folder: what is where, and how it is read and written. Its files are the truth, not Slurm's accounting."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.storage.files import replace_file
from jobs.changes import DATASET, PLACE, changes_between
from jobs.config import ConfigError, RunConfig, load_config, to_yaml
from jobs.manifest import ManifestVideo
from jobs.planner import Shard
from jobs.shard_files import ShardPlace, read_index, read_shard, read_shards, write_shards


class RunDirError(RuntimeError):
    """The run folder is missing, incomplete, or belongs to another run."""


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    root: Path

    @property
    def config_path(self) -> Path:
        return self.root / "run.yaml"

    @property
    def environment_path(self) -> Path:
        return self.root / "environment.json"

    @property
    def manifest_path(self) -> Path:
        return self.root / "manifest.jsonl"

    @property
    def plan_path(self) -> Path:
        return self.root / "plan" / "shards.jsonl"

    @property
    def attempts_path(self) -> Path:
        return self.root / "attempts"

    @property
    def state_path(self) -> Path:
        return self.root / "state"

    @property
    def leases_path(self) -> Path:
        return self.root / "leases"

    @property
    def logs_path(self) -> Path:
        return self.root / "logs"

    @property
    def report_path(self) -> Path:
        return self.root / "report.json"

    @property
    def page_path(self) -> Path:
        return self.root / "report.html"

    def attempt_path(self, attempt: int) -> Path:
        """Folder of one attempt."""
        return self.attempts_path / f"{attempt:03d}"

    def shards_path(self, attempt: int) -> Path:
        """The shards of an attempt; those of the first are the plan."""
        return self.plan_path if attempt == 1 else self.attempt_path(attempt) / "shards.jsonl"

    def jobs_path(self, attempt: int) -> Path:
        """The Slurm jobs of an attempt."""
        return self.attempt_path(attempt) / "jobs.json"

    def shard_state_path(self, shard: int) -> Path:
        """The events of a shard, written by whoever holds its lease."""
        return self.state_path / f"shard-{shard:05d}.jsonl"

    def state_paths(self) -> list[tuple[int, Path]]:
        """The events of every shard that began, by its number, which rises."""
        found = self.state_path.glob("shard-*.jsonl")
        return sorted((int(path.stem.removeprefix("shard-")), path) for path in found)

    @property
    def found_path(self) -> Path:
        """Ends of videos that no worker lived to write down, found by the aggregation in the records."""
        return self.state_path / "found.jsonl"

    def lease_path(self, shard: int) -> Path:
        """The lease of a shard."""
        return self.leases_path / f"shard-{shard:05d}.json"

    def load_config(self) -> RunConfig:
        """The config the run was planned with.

        Raises:
            RunDirError: this is not a run folder.
        """
        if not self.config_path.is_file():
            raise RunDirError(f"{self.root} is no run folder: it has no {self.config_path.name}")
        try:
            return load_config(self.config_path)
        except ConfigError as error:
            raise RunDirError(f"{self.config_path} can't be read by this version of clipmill: {error}") from error

    def claim(self, config: RunConfig) -> None:
        """Write the config, unless the folder was planned with another one.

        Raises:
            RunDirError: it was planned with another one; says which settings differ.
        """
        self.check_settings(config)
        self.write_settings(to_yaml(config))

    def write_settings(self, settings: str) -> None:
        """Make this YAML the run's config, whatever it was before."""
        replace_file(self.config_path, settings.encode())

    def check_settings(self, config: RunConfig) -> None:
        """See ``claim``; writes nothing."""
        if not self.config_path.is_file():
            return
        # where and how a run is executed may change between attempts; what it makes may not
        changed = [each for each in changes_between(self.load_config(), config) if each.decides not in {PLACE, DATASET}]
        if changed:
            raise RunDirError(
                f"{self.root} holds a run with other settings; take another run_dir and output_clip_path, or do this "
                f"run again with the new ones (clipmill resume {self.root} --config NEW.yaml), or undo:\n  "
                + "\n  ".join(map(str, changed))
            )

    def attempts(self) -> list[int]:
        """Numbers of the attempts that were planned, rising."""
        found = [int(p.name) for p in self.attempts_path.glob("[0-9]*") if p.name.isdigit()]
        return sorted(n for n in found if self.shards_path(n).is_file())

    def shards(self, attempt: int) -> Iterator[Shard]:
        """The shards of an attempt in order, one at a time."""
        path = self.shards_path(attempt)
        if not path.is_file():
            raise RunDirError(f"{self.root} has no attempt {attempt}: {path} is missing")
        yield from read_shards(path)

    def shard_sizes(self, attempt: int) -> dict[int, int]:
        """How many videos each shard of an attempt has; reads no list of videos."""
        return {each.shard: each.num_videos for each in self._index(attempt)}

    def shard(self, attempt: int, index: int) -> Shard:
        """One shard of an attempt; reads no other.

        Raises:
            RunDirError: the attempt has no such shard.
        """
        place = next((each for each in self._index(attempt) if each.shard == index), None)
        if place is None:
            raise RunDirError(f"attempt {attempt} of {self.root} has no shard {index}")
        return read_shard(self.shards_path(attempt), place)

    def _index(self, attempt: int) -> list[ShardPlace]:
        path = self.shards_path(attempt)
        if not path.is_file():
            raise RunDirError(f"{self.root} has no attempt {attempt}: {path} is missing")
        return read_index(path)

    def write_shards(self, attempt: int, shards: Iterable[Shard]) -> None:
        """Write an attempt's shards; they never change afterwards."""
        self.attempt_path(attempt).mkdir(parents=True, exist_ok=True)
        write_shards(self.shards_path(attempt), shards)

    def manifest_entries(self) -> Iterator[tuple[int, ManifestVideo]]:
        """Every video with the byte offset of its line."""
        offset = 0
        with self.manifest_path.open("rb") as lines:
            for line in lines:
                yield offset, ManifestVideo(**json.loads(line))
                offset += len(line)

    def videos_at(self, offsets: Iterable[int]) -> list[ManifestVideo]:
        """The videos whose lines begin at these offsets: a worker reads its own and no other."""
        with self.manifest_path.open("rb") as file:
            videos = []
            for offset in offsets:
                file.seek(offset)
                videos.append(ManifestVideo(**json.loads(file.readline())))
            return videos


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step."""
    replace_file(path, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
