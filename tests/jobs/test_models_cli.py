from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from curation.captioning.models import CAPTION_MODELS, TEXT_MODELS
from jobs import exits
from jobs.config import RunConfig, load_config
from jobs.models_cli import app
from jobs.models_needed import known_models, missing_weights, needed_models
from tests.hub import FakeHub, checkpoint

QWEN, QWEN_LM = CAPTION_MODELS["qwen"], TEXT_MODELS["qwen_lm"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for model in (QWEN, QWEN_LM):
            hub.add(model.repository, checkpoint(model_type=model.model_type), commit=model.revision)
        yield hub


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    document = {
        "run_dir": str(tmp_path / "run"),
        "input_video_path": str(tmp_path),
        "output_clip_path": str(tmp_path / "out"),
        "models": {"model_dir": str(tmp_path / "models")},
        "captions": {"enhance_captions": True},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def config_of(path: Path, *overrides: str) -> RunConfig:
    return load_config(path, overrides)


def ask(*arguments: object) -> tuple[int, str]:
    """Exit code, and what was printed anywhere."""
    answer = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})
    return answer.exit_code, answer.output


def test_a_config_needs_the_models_of_the_captions_that_it_asks_for(config_path: Path) -> None:
    def names(*overrides: str) -> list[str]:
        return [needed.name for needed in needed_models(config_of(config_path, *overrides))]

    assert names() == ["qwen", "qwen_lm"]
    assert names("captions.enhance_captions=false") == ["qwen"]
    assert names("captions.captioning_algorithm=nemotron-fp8") == ["nemotron-fp8", "qwen_lm"]
    assert names("captions.generate_captions=false") == []


def test_pull_fetches_what_a_config_needs_and_then_nothing_is_missing(
    hub: FakeHub, tmp_path: Path, config_path: Path
) -> None:
    config = config_of(config_path)
    missing = missing_weights(config)
    assert len(missing) == 2
    assert f"clipmill models pull --model {QWEN.repository} --model-dir {tmp_path / 'models'}" in missing[0]
    code, said = ask("pull", config_path)
    assert code == exits.DONE, said
    assert f"qwen_lm: complete in {tmp_path / 'models' / QWEN_LM.repository}" in said
    assert missing_weights(config) == []


@pytest.mark.parametrize("name", ["qwen", QWEN.repository])
def test_a_model_is_named_as_in_a_config_or_as_on_the_hub(hub: FakeHub, tmp_path: Path, name: str) -> None:
    assert ask("pull", "--model", name, "--model-dir", tmp_path)[0] == exits.DONE
    assert (tmp_path / QWEN.repository / "config.json").is_file()


def test_list_shows_every_model_once_and_which_weights_are_there(hub: FakeHub, tmp_path: Path) -> None:
    ask("pull", "--model", "qwen", "--model-dir", tmp_path)
    code, said = ask("list", "--model-dir", tmp_path)
    assert code == exits.DONE
    rows = {line.split()[1]: line for line in said.splitlines() if "/" in line}
    assert {model.repository for model in [*CAPTION_MODELS.values(), *TEXT_MODELS.values()]} <= {
        word for line in rows.values() for word in line.split()
    }
    assert len(rows) == len(known_models())
    assert str(tmp_path / QWEN.repository) in rows["qwen"]
    assert "missing" in rows["qwen_lm"]


def test_what_the_hub_refuses_ends_the_command_with_its_reason(hub: FakeHub, tmp_path: Path) -> None:
    hub.error = (401, "GatedRepo")
    code, said = ask("pull", "--model", "qwen", "--model-dir", tmp_path)
    assert code == exits.FAILED
    assert "HF_TOKEN" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--model", "gpt", "--model-dir", "x"], "unknown model 'gpt'; known: qwen", id="unknown model"),
        pytest.param(["--model", "qwen"], "--model-dir", id="nowhere to put it"),
        pytest.param(["--model-dir", "x"], "--model", id="nothing to fetch"),
        pytest.param(["none.yaml"], "none.yaml", id="no such config"),
    ],
)
def test_wrong_usage_says_what_is_lacking(arguments: list[str], words: str) -> None:
    code, said = ask("pull", *arguments)
    assert code == exits.USAGE
    assert words in said
