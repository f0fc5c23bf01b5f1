"""Commands run in this process, as ``clipmill`` runs them, without the time of its start."""

import sys

import pytest

from jobs import cli


class Answer:
    """What a command said and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Terminal:
    """Runs commands in this process: as ``clipmill`` does, without its start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._captured = monkeypatch, captured

    def __call__(self, *arguments: object) -> Answer:
        self._captured.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["clipmill", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self._captured.readouterr()
        assert "Traceback" not in err
        return Answer(int(ended.value.code or 0), out, err)
