import gc
import importlib
from pathlib import Path

import pytest

from tests.captioning import tiny_models


@pytest.fixture(scope="session")
def needs_vllm() -> None:
    tiny_models.require_vllm()


@pytest.fixture(scope="session")
def needs_transformers() -> None:
    tiny_models.require_transformers()
    for name in ("torch", "transformers"):
        importlib.import_module(name)
    gc.freeze()  # modules are no garbage: each engine that is closed would have all their objects looked through


@pytest.fixture(scope="session")
def tiny_qwen_vl(needs_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Qwen2.5-VL."""
    return tiny_models.write_qwen25_vl(tmp_path_factory.mktemp("qwen25vl"))


@pytest.fixture(scope="session")
def tiny_qwen3_vl(needs_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Qwen3-VL."""
    return tiny_models.write_qwen3_vl(tmp_path_factory.mktemp("qwen3vl"))


@pytest.fixture(scope="session")
def tiny_qwen_lm(needs_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Qwen2.5 for text."""
    return tiny_models.write_qwen25_lm(tmp_path_factory.mktemp("qwen25lm"))
