"""What streams over bytes that lie elsewhere have in common."""

import io


class SeekableReader(io.RawIOBase):
    """Where a reader is in ``num_bytes`` bytes; who derives from it gives the bytes, and moves ``position``."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.num_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"a stream has no position {base + offset}")
        self.position = base + offset
        return self.position
