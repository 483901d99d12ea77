"""What the command says of what it cannot do."""

from __future__ import annotations

import pytest

from fastupdate.cli import main


def check_refusal(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("fastupdate")
    assert ": error: " in err
    assert message in err
    assert err.count("\n") == 1
