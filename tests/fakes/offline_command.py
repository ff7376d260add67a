"""The command line of `offline`, called inside the test process."""

import pytest

from offline.commands.cli import main


class OfflineCommand:
    """`python -m offline ARGUMENTS`: exit code, standard output, standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err
