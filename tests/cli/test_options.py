"""One rule for names: options, variables and fields, all of them."""

from typing import Any

import pytest

from flows.cli.options import NOT_FIELDS
from flows.cli.program import every_command
from sealift.config_load import every_field


def test_every_option_has_its_variable_by_the_rule() -> None:
    seen = set()
    for command in every_command():
        for option in command.options:
            longest = option.names[0]
            expected = "SEALIFT_" + longest.removeprefix("--").replace("-", "_").upper()
            assert option.variable == expected, (command.words, longest)
            assert option.help, (command.words, longest)
            seen.add(expected)
    assert seen | {"SEALIFT_CACHE"} == NOT_FIELDS
    assert not seen & {spec.variable for spec in every_field()}


def test_every_command_has_json() -> None:
    for command in every_command(groups=True):
        known = {name for option in command.options for name in option.names}
        assert "--json" in known or (command.group and command.words)


def test_an_option_by_its_variable(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = world.folder / "other.yaml"
    (world.folder / "plan.yaml").rename(other)
    monkeypatch.setenv("SEALIFT_PLAN", str(other))
    monkeypatch.setenv("SEALIFT_YES", "1")
    monkeypatch.setenv("SEALIFT_JSON", "1")
    code, out, _ = world.run("cutover")
    assert code == 0
    assert out.startswith('{"type": "hello"')
    code, out, _ = world.run("nosuch")
    assert code == 2
    assert '"type": "error"' in out


def test_a_wrong_variable_is_refused(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_LIMITS__BANDWITH", "1MiB")
    code, _, err = world.run("migrate")
    assert code == 2
    assert "did you mean SEALIFT_LIMITS__BANDWIDTH?" in err


def test_tracking_loss_is_an_option_where_errors_say_so(world: Any) -> None:
    world.run("replicate")
    world.hypervisor.restart()
    code, lines = world.lines("replicate", "--on-tracking-loss", "stop")
    assert code == 21
    assert "--on-tracking-loss compare" in lines[-1]["next"]
    code, lines = world.lines("replicate", "--on-tracking-loss", "compare")
    assert code == 0
    (round_line,) = [line for line in lines if line["type"] == "round"]
    assert {disk["mode"] for disk in round_line["disks"]} == {"compare"}
