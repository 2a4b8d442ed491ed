"""What a command costs before it does anything: Prefect and SDKs only where they are used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("prefect", "boto3", "botocore", "moto", "sqlalchemy", "fastapi", "PIL", "qemu")
_PROBE = """\
import json, sys
from flows.cli.main import main
code = main({words!r})
heavy = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps([code, heavy]), file=sys.stderr)
"""


def imported(words: list[str], folder: Path) -> list[str]:
    """Which heavy packages a command imports, in a process of its own."""
    probe = _PROBE.format(words=words, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=folder, capture_output=True, text=True, check=True
    )
    _, heavy = json.loads(done.stderr.splitlines()[-1])
    return list(heavy)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["cutover", "--help"],
        ["status"],
        ["doctor"],
        ["config", "show"],
        ["help", "exit-codes"],
        ["replicate", "--nosuch"],
        ["version"],
    ],
    ids=" ".join,
)
def test_looking_costs_no_prefect_and_no_sdk(words: list[str], tmp_path: Path) -> None:
    assert imported(words, tmp_path) == []


def test_help_is_fast(tmp_path: Path) -> None:
    """In processor time, so that a busy machine does not fail it: 0.2 s measured."""
    probe = (
        "import resource, sys\n"
        "from flows.cli.main import main\n"
        "main(['--help'])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime, file=sys.stderr)\n"
    )
    seconds = [
        float(
            subprocess.run(
                [sys.executable, "-c", probe], capture_output=True, text=True, check=True
            ).stderr
        )
        for _ in range(3)
    ]
    assert min(seconds) < 0.5


def test_a_run_costs_no_prefect(tmp_path: Path) -> None:
    driver = Path(__file__).with_name("simulated_command.py")
    plan = (
        "migration: x\nsource: {qemu: {qmp: /q}}\n"
        "target: {aws: {subnet: subnet-1, security_groups: [sg-1]}}\n"
    )
    (tmp_path / "plan.yaml").write_text(plan)
    env = {
        "PATH": "/usr/bin:/bin",
        "XDG_STATE_HOME": str(tmp_path),
        "WORLD_REPORT": str(tmp_path / "report.json"),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(driver), "cutover", "--yes"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not names & {"prefect", "moto", "sqlalchemy"}
