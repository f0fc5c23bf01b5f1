"""How pyarrow starts in clipmill's own processes."""

import sys

import pyarrow as pa


class _NoPandas:
    """Says of pandas alone that it is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def do_without_pandas() -> None:
    """Let pyarrow take pandas for not installed, until something is asked for that needs it.

    With its first array pyarrow imports pandas wherever it finds it, which takes longer than many a command; nothing
    here uses it.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
