"""What glibc keeps of freed memory."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def give_back_large_blocks(min_bytes: int) -> None:
    """Have blocks of so many bytes or more go back to the system when they are freed; elsewhere than on glibc nothing.

    Left to itself glibc raises that bound with every large block that is freed, up to 32 MiB. Clips and pictures of all
    sizes then leave holes on its heap, and a process grows with the number of clips that went through it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, min_bytes)
        mallopt(_M_TRIM_THRESHOLD, min_bytes)
