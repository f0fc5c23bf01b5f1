"""The help of every command, and what a shell offers when Tab is pressed."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from jobs import config_reference, exits
from jobs.cli import app
from jobs.help_texts import MANUALS, MEND, RESULTS, RUN, SET_UP, WATCH
from tests.local_runs import ROOT
from tests.terminal import Terminal


def all_commands(group: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    group = group if group is not None else typer.main.get_command(app)
    for key, command in group.commands.items():
        yield f"{name}{key}", command
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{name}{key} ")


COMMANDS = dict(all_commands())


def test_every_command_has_a_manual_and_every_manual_a_command() -> None:
    assert set(MANUALS) == set(COMMANDS)


def test_commands_are_listed_in_the_order_of_use(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = terminal("--help")
    assert shown.code == exits.DONE
    assert max(map(len, shown.out.splitlines())) <= 80
    panels = [shown.out.index(f"─ {panel} ─") for panel in (SET_UP, RUN, WATCH, MEND, RESULTS)]
    assert panels == sorted(panels)
    names = re.findall(r"^│ (\w+)  ", shown.out, re.MULTILINE)
    assert names == [name for name in MANUALS if " " not in name]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", MANUALS)
def test_the_help_of_a_command_is_a_manual(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = terminal(*name.split(), "--help")
    assert shown.code == exits.DONE
    words = " ".join(shown.out.split())
    assert MANUALS[name].line in words
    for example in MANUALS[name].examples:
        assert f"  {example}" in shown.out, "an example must fit into a line of 80"
    if not hasattr(COMMANDS[name], "commands"):
        assert "Exit codes:" in shown.out
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} says nothing"


@pytest.mark.parametrize("name", MANUALS)
def test_examples_name_commands_and_options_that_there_are(name: str) -> None:
    for example in MANUALS[name].examples:
        words = shlex.split(example.partition(" #")[0])
        assert words[: 1 + len(name.split())] == ["clipmill", *name.split()]
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
    for other in re.findall(r"clipmill (\w+)", MANUALS[name].see):
        assert other in COMMANDS


@pytest.mark.parametrize(
    ("words", "number", "offered"),
    [
        ("clipmill sta", 1, {"status"}),
        ("clipmill submit --d", 2, {"--detach", "--dry-run"}),
        ("clipmill dedup runs/a --which-to-keep ", 4, {"hard", "easy", "random"}),
        ("clipmill resume runs/a --failed t", 4, {"timeout", "truncated"}),
        ("clipmill plan a.yaml --set clips.enc", 4, {"clips.encoder=", "clips.encoder_threads="}),
        ("clipmill plan a.yaml --set cluster=", 4, {"cluster=slurm", "cluster=local", "cluster=debug"}),
    ],
)
def test_a_shell_is_offered_what_can_follow(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, words: str, number: int, offered: set[str]
) -> None:
    for name, value in {"COMP_WORDS": words, "COMP_CWORD": str(number), "_CLIPMILL_COMPLETE": "complete_bash"}.items():
        monkeypatch.setenv(name, value)
    assert set(terminal().out.split()) == offered


def test_the_script_for_bash_completes_files_where_nothing_else_fits(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_CLIPMILL_COMPLETE", "source_bash")
    assert "complete -o default -F _clipmill_completion clipmill" in terminal().out


def test_the_page_of_all_settings_is_current() -> None:
    page = Path(ROOT / "docs" / "config.md")
    assert page.read_text(encoding="utf-8") == config_reference.reference(), f"mend it with: {config_reference.MEND}"


def test_the_page_of_all_settings_says_what_each_takes() -> None:
    rows = [line for line in config_reference.reference().splitlines() if line.startswith("| `")]
    settings = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows if len(re.split(r"(?<!\\)\|", row)) == 7]
    assert len(settings) > 150
    for key, takes, _, default, meaning in settings:
        assert takes.strip(), key
        assert default.strip(), key
        assert meaning.strip(), key
