"""What somebody sees who uses it for the first time, wrongly, in a narrow window."""

import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any

import pytest

from flows.places import general_logs
from flows.run_log import KEPT_FILES
from sealift.errors import SourceError, ToolError
from sealift.readiness import readable

WRONG: list[tuple[list[str], int, str, str]] = [
    (["--plan", "x", "status"], 2, "stand behind it", "sealift --help"),
    (["migrat"], 2, "Did you mean 'migrate'?", "sealift --help"),
    (["image"], 2, "name a command: convert, info", "sealift image --help"),
    (["config", "shwo"], 2, "Did you mean 'show'?", "sealift config --help"),
    (["replicate", "--plan"], 2, "requires an argument", "sealift replicate --help"),
    (["replicate", "--plan", "missing.yaml"], 2, "missing.yaml: No such file", "config init"),
    (["replicate", "--plan", "."], 2, "", "config init"),
    (["replicate", "--plan", "empty.yaml"], 2, "source: is missing", "config init"),
    (["replicate", "--plan", "text.yaml"], 2, "a map of keys and values", "config init"),
    (["replicate", "--set", "migration=WEB"], 2, "1 to 32 lower-case letters", "correct"),
    (["replicate", "--set", "policy.verfy=1"], 2, "did you mean policy.verify?", "correct"),
    (["replicate", "--set", "policy"], 2, "write FIELD=VALUE", "config show"),
    (["migrate", "--on-tracking-loss", "no"], 2, "compare, full, stop", "choose"),
    (["cutover"], 2, "nobody can confirm", "--yes"),
    (["abandon"], 2, "nobody can confirm", "--yes"),
    (["cutover", "--undo"], 2, "no cutover is under way", "sealift migrate"),
    (["status"], 2, "no migration in", "sealift migrate begins one"),
    (["status", "--id", "web-99"], 2, "called web-99", "sealift status"),
    (["config", "init", "no/folder/x.yaml"], 2, "no folder no/folder", "mkdir -p no/folder"),
    (["config", "init", "plan.yaml"], 2, "is there already", "--overwrite"),
    (["serve"], 2, "no Prefect server", "prefect server start"),
    (["demo", "--output", "plan.yaml"], 2, "plan.yaml is a file", "--output FOLDER"),
    (["sandbox", "--directory", "plan.yaml"], 2, "Not a directory", "another folder"),
    (["sandbox", "--port", "many"], 2, "--port", "sealift sandbox --help"),
    (["image", "info", "missing.qcow2"], 22, "No such file", "check the path"),
    (["image", "info", "."], 22, "neither a file nor a block device", "name an image"),
    (["image", "info", "plan.yaml"], 22, "no image format", "state the format raw"),
    (["image", "convert", "plan.yaml", "x"], 2, "missing option '--to'", "convert --help"),
    (["image", "convert", "plan.yaml", "x", "--to", "x"], 2, "not a form", "vhd-fixed"),
    (["help", "me"], 2, "no help on me", "exit-codes"),
    (["completion", "tcsh"], 2, "no completion for tcsh", "bash | zsh | fish"),
]


@pytest.mark.sandbox
@pytest.mark.parametrize(("words", "code", "told", "step"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_word_is_named_with_what_to_do(
    world: Any, words: list[str], code: int, told: str, step: str
) -> None:
    (world.folder / "empty.yaml").touch()
    (world.folder / "text.yaml").write_text("hello\n")
    found, out, err = world.run(*words)
    lines = err.splitlines()
    assert found == code, err
    assert out == ""
    assert lines[0].startswith("sealift")
    assert told in err
    (following,) = (line for line in lines if line.startswith("next: "))
    assert step in following
    assert "Traceback" not in err
    assert world.opened == 0 or "--undo" in words


def test_no_plan_is_told_by_every_command_that_needs_one(world: Any) -> None:
    (world.folder / "plan.yaml").unlink()
    for words in (["replicate"], ["migrate"], ["cutover", "--yes"], ["abandon"], ["preflight"]):
        code, _, err = world.run(*words)
        assert code == 2
        assert "there is no plan.yaml here" in err
        assert "sealift config init" in err
    for words in (["plan"], ["config", "show"], ["serve"]):
        assert world.run(*words)[0] == 2


def test_a_plan_that_may_not_be_read(tmp_path: Path) -> None:
    """Without root's right to read everything, when the tests run as root."""
    plan = tmp_path / "secret.yaml"
    plan.write_text("migration: x\n")
    plan.chmod(0)
    mortal = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [sys.executable, "-m", "flows.cli.main", "replicate", "--plan", str(plan)]
    done = subprocess.run(
        command if os.getuid() else mortal + command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
    )
    assert done.returncode == 2, done.stderr
    assert f"{plan}' is not readable" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_at_all_shows_the_help(world: Any) -> None:
    code, out, err = world.run()
    assert (code, err) == (0, "")
    assert out.startswith("Usage: sealift")
    assert "migrate" in out


def test_the_version(world: Any) -> None:
    assert world.run("--version") == world.run("version")
    assert world.run("--version")[1].startswith("sealift 0.")


def test_the_next_step_names_the_plan_that_was_named(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "plan.yaml").rename(world.folder / "my plan.yaml")
    _, _, err = world.run("replicate", "--plan", "my plan.yaml")
    assert "next: sealift migrate --plan 'my plan.yaml', or sealift cutover --plan 'my" in err
    _, lines = world.lines("migrate", "-p", "my plan.yaml")
    assert lines[-1]["next"] == "sealift cutover --plan 'my plan.yaml'"
    monkeypatch.setenv("SEALIFT_PLAN", "my plan.yaml")
    _, lines = world.lines("migrate")
    assert lines[-1]["next"] == "sealift cutover"


# ---------------------------------------------------------------------- logs


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError("nobody expected this")


def refused(*_: object, **__: object) -> None:
    raise ToolError("the tool failed")


PLACES = [
    (["doctor"], "flows.cli.doctor_command.examine"),
    (["preflight"], "flows.cli.look_commands.preflight_checks"),
    (["plan"], "flows.cli.look_commands.estimate"),
    (["status"], "flows.cli.status_command.read_status"),
    (["replicate"], "flows.session.assembly.ports_over"),
    (["migrate"], "flows.session.assembly.ports_over"),
    (["cutover", "--yes"], "flows.session.assembly.ports_over"),
    (["abandon", "--yes"], "flows.session.assembly.ports_over"),
    (["sandbox"], "sandbox.aws.server.AwsSandbox.start"),
    (["sandbox", "--target", "azure"], "sandbox.azure.server.AzureSandbox.start"),
    (["demo"], "flows.cli.demo_command.Demo"),
    (["serve"], "flows.cli.plans.load_any"),
    (["version"], "flows.cli.doctor_command.examine"),
    (["completion", "bash"], "flows.cli.completion_command.Script"),
    (["help", "events"], "flows.cli.json_schema.schema"),
    (["config", "show"], "flows.cli.config_commands.fields"),
    (["config", "init", "x.yaml"], "flows.cli.config_commands.template"),
    (["image", "info", "plan.yaml"], "flows.cli.image_commands.inspect"),
    (["image", "convert", "plan.yaml", "x", "--to", "raw"], "flows.cli.image_commands.inspect"),
]


@pytest.mark.sandbox
@pytest.mark.parametrize("failing", [broken, refused])
@pytest.mark.parametrize(("words", "place"), PLACES, ids=lambda v: str(v)[:40])
def test_every_command_that_fails_names_its_log(
    world: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    place: str,
    failing: Callable[..., None],
) -> None:
    if words == ["status"]:
        assert world.run("replicate")[0] == 0
    monkeypatch.setattr(place, failing)
    code, out, err = world.run(*words)
    assert code == (1 if failing is broken else 50), err
    assert "Traceback" not in out + err
    (log,) = re.findall(r"^log: (.+)$", err, re.M)
    assert "Traceback" in Path(log).read_text()
    assert Path(log).stat().st_mode & 0o777 == 0o600
    _, lines = world.lines(*words)
    assert lines[-1]["log"] != log
    assert Path(lines[-1]["log"]).is_file()
    assert lines[-1]["next"]


def test_old_logs_are_removed(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.cli.doctor_command.examine", broken)
    folder = general_logs(os.environ)
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    for number in range(KEPT_FILES + 20):
        (folder / f"20200101T0000{number:02}.000000Z-doctor-1.log").write_text("old")
    (folder / "mine.txt").write_text("kept")
    code, lines = world.lines("doctor")
    assert code == 1
    left = sorted(path.name for path in folder.iterdir())
    assert len(left) <= KEPT_FILES + 2
    assert "mine.txt" in left
    assert Path(lines[-1]["log"]).name in left


def test_a_log_folder_that_cannot_be_made_hides_nothing(world: Any) -> None:
    world.state.parent.parent.mkdir(exist_ok=True)
    world.state.parent.write_text("a file where the folder should be")
    code, lines = world.lines("replicate")
    assert code == 40, lines
    assert lines[-1]["log"] is None
    assert lines[-1]["next"]


# ---------------------------------------------------------------------- terminals

DRIVER = Path(__file__).with_name("simulated_command.py")


def on_a_terminal(world: Any, *words: str, columns: int, **variables: str) -> str:
    """Everything that a command writes to a terminal of this width."""
    master, slave = pty.openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "LINES")}
    env |= {"TERM": "xterm-256color", "WORLD_REPORT": str(world.folder / "report.json")}
    process = subprocess.Popen(
        [sys.executable, str(DRIVER), *words],
        cwd=world.folder,
        env={**env, **variables},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    while readable(master, 60):
        try:
            part = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        shown += part
    assert process.wait(30) == 0, shown.decode()
    os.close(master)
    return shown.decode()


def plain(text: str) -> list[str]:
    """Lines without what only moves the cursor or colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n").split("\n")


@pytest.mark.parametrize("words", [["migrate"], ["cutover", "--yes"], ["replicate"]], ids=" ".join)
@pytest.mark.parametrize("columns", [60, 200])
def test_tables_fit_the_window(world: Any, words: list[str], columns: int) -> None:
    shown = on_a_terminal(world, *words, columns=columns)
    own = [line for line in plain(shown) if line.startswith(" ")]
    assert own
    assert max(map(len, own)) <= columns
    text = " ".join(" ".join(own).split())
    assert "128.0 KiB" in text, "figures stay whole"
    assert "crash" in text


def test_no_color_has_no_colours(world: Any) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*(?:3[0-8]|4[0-8]|9[0-7])[0-9;]*m")
    shown = on_a_terminal(world, "cutover", "--yes", columns=80)
    assert coloured.search(shown), "there are colours otherwise"
    shown = on_a_terminal(
        world, "cutover", "--yes", "--set", "migration=two", columns=80, NO_COLOR="1"
    )
    assert not coloured.search(shown)


def test_an_error_is_the_same_in_a_narrow_window(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, _, err = world.run("replicate", "--plan", "missing.yaml")
    assert code == 2
    assert len(err.splitlines()) == 2, "a line can be copied whole"


def test_an_error_below_an_error_says_both(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(*_: object) -> None:
        raise SourceError("the machine is gone") from OSError("connection reset")

    monkeypatch.setattr(world.hypervisor, "describe", no_source)
    code, _, err = world.run("preflight")
    assert code == 20
    (log,) = re.findall(r"^log: (.+)$", err, re.M)
    assert "connection reset" in Path(log).read_text()
