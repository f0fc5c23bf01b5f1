"""Lets PyPI's torchvision be imported beside a torch without CUDA.

PyPI's torchvision is built for CUDA. Beside a CPU torch its compiled part can't be loaded, which it bears, and then it
describes an operator of that part (``torchvision::nms``) to torch, which nobody has declared: the import fails. Image
and video processors of transformers, and through them vLLM, import torchvision for what is written in Python only. So
two operators are declared, not defined, just before torchvision runs: what needs them fails when it is called.

``install.sh`` puts this file into the environment with a .pth file that calls ``install`` in each Python process, those
of vLLM among them. It costs nothing until torchvision is imported, and nothing is declared beside a torch with CUDA.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # torch takes declarations back when the object that made them goes


class _Loader(importlib.abc.Loader):
    """Declares the operators, then runs the module as its own loader does."""

    def __init__(self, own: importlib.abc.Loader) -> None:
        self._own = own

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _declare()
        self._own.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for torchvision to be run: torch itself asks whether it exists while torch is only half imported."""

    def __init__(self) -> None:
        self._is_asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision" or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _declare() -> None:
    import torch

    if _declared or torch.version.cuda is not None:
        return
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in _OPERATORS:
        library.define(operator)
    _declared.append(library)


def install() -> None:
    """Wait for torchvision; once in a process, though Python may read a .pth file twice."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
