"""How a command that is interrupted tells it."""

import json

import pytest
import typer

from flows.cli.invocation import invocation


@pytest.mark.parametrize(
    ("raised", "named"),
    [(KeyboardInterrupt(), "SIGINT"), (KeyboardInterrupt("SIGTERM"), "SIGTERM")],
)
def test_the_signal_is_named(
    raised: KeyboardInterrupt, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, invocation("demo", machine=True):
        raise raised
    assert ended.value.exit_code == 130
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["message"] == f"stopped: {named}"
