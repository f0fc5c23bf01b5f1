"""Rows for decoders that spin, hang, crash or leak: their videos go through decode children."""

from typing import Any

from curation.errors import FailureReason
from curation.pipeline.sandbox import DecodeSandbox
from curation.video.probe import SourceLimits
from tests.faulty_stages import MIB, Faulty
from tests.nasty_laws import Law, fails
from tests.nasty_rows import Row, giant, made

IN_CHILDREN = DecodeSandbox(memory_bytes=400 * MIB, stall_timeout_s=3.0, video_timeout_s=8.0)
FAULTY: dict[str, Any] = {"sandbox": IN_CHILDREN, "then": Faulty}


def faulty(what: str, fault: str, law: Law) -> Row:
    return Row(f"a decoder that {what}", made(f"{fault}.mp4"), [law], FAULTY)


FAULT_ROWS = [
    faulty("spins, interpreter locked", "spin", fails(FailureReason.STALLED, "no progress for 3 s")),
    faulty("waits for ever", "hang", fails(FailureReason.STALLED, "no progress for 3 s")),
    faulty("goes on for ever", "crawl", fails(FailureReason.TIMEOUT, "took more than 8 s")),
    faulty("crashes", "segfault", fails(FailureReason.CRASHED, "ended by SIGSEGV, 3 times")),
    faulty("exits", "leave", fails(FailureReason.CRASHED, "ended with exit status 7, 3 times")),
    faulty("leaks", "leak", fails(FailureReason.MEMORY, "more memory than it may take")),
    Row(
        "12000x12000 within the limits, beyond the memory",
        giant,
        [fails(FailureReason.MEMORY, "memory")],
        {"sandbox": IN_CHILDREN, "limits": SourceLimits(max_pixels=10**9)},
    ),
]
