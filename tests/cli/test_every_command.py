"""Every command, found in the parser: each line of its JSON, each example of its help.

A new command without an example, or without a case below, fails here.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flows.cli import json_schema
from flows.cli.help_topics import topics
from flows.cli.program import every_command
from sealift.clock import SystemClock
from sealift.testing.faults import Killed
from tests.cli.repository_world import prepare, write_plan
from tests.conftest import Evidence

CLOCK = SystemClock()
COMMANDS = {command.words: command for command in every_command()}
PAGES = {command.words: command for command in every_command(groups=True)}
EXAMPLES = [(page.words, example) for page in PAGES.values() for example in page.examples]
TYPES = {
    json_schema.schema()["$defs"][kind.__name__]["properties"]["type"]["const"]
    for kind in json_schema.line_classes()
}

Words = tuple[str, ...]
CASES: dict[Words, list[list[str]]] = {
    ("doctor",): [[], ["--plan", "missing.yaml"], ["--plan", "plan.yaml"]],
    ("preflight",): [[], ["--plan", "."]],
    ("plan",): [[], ["--set", "limits.bandwidth=1MiB"], ["--on-tracking-loss", "never"]],
    ("status",): [[], ["--id", "nosuch"], ["--id", "../x"]],
    ("replicate",): [
        [],
        ["--set", "policy.nosuch=1"],
        ["--set", "nothing"],
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--set", "repository.folder=/nonexistent/points"],
    ],
    ("migrate",): [[], ["--plan", "broken.yaml"]],
    ("cutover",): [["--yes"], [], ["--undo"]],
    ("abandon",): [["--yes"], [], ["--plan", "dr.yaml"], ["--plan", "dr.yaml", "--yes"]],
    ("sandbox",): [["--directory", "plan.yaml/x"]],
    ("demo",): [["--output", "plan.yaml/x", "--no-prefect"]],
    ("serve",): [[], ["--plan", "missing.yaml"]],
    ("version",): [[]],
    ("completion",): [["bash"], ["zsh"], ["fish"], ["csh"]],
    ("help",): [[], *([topic] for topic in topics(None)), ["no"]],
    ("config", "show"): [[], ["--set", "migration=UPPER"]],
    ("config", "init"): [
        ["new.yaml"],
        ["plan.yaml"],
        ["no/such/folder.yaml"],
        ["dr-new.yaml", "--kind", "replication"],
        ["other.yaml", "--kind", "nosuch"],
    ],
    ("repository", "init"): [
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--recovery", "code.txt", "--fips"],
        ["--plan", "dr.yaml", "--recovery", "plan.yaml"],
        ["--plan", "plan.yaml"],
    ],
    ("repository", "check"): [["--plan", "dr.yaml"], []],
    ("repository", "prune"): [
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--preview"],
        ["--plan", "dr.yaml", "--set", "retention.last=0"],
    ],
    ("verify",): [
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--read-data", "2"],
        ["--plan", "dr.yaml", "--set", "repository.cache=/proc/none"],
    ],
    ("repository", "check-store"): [
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--set", "repository.folder=/nonexistent/points"],
    ],
    ("repository", "keys", "list"): [["--plan", "dr.yaml"], []],
    ("repository", "keys", "add"): [
        ["--plan", "dr.yaml", "--recovery", "code.txt"],
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--passphrase-file", "missing"],
    ],
    ("repository", "keys", "remove"): [
        ["0123abcd", "--plan", "dr.yaml"],
        ["ffff", "--plan", "dr.yaml"],
    ],
    ("repository", "undelete"): [
        ["--plan", "dr.yaml", "--since", "2026-05-01T08:30"],
        ["--plan", "dr.yaml", "--since", "yesterday"],
        ["--plan", "dr.yaml"],
    ],
    ("repository", "reseal"): [["--plan", "dr.yaml"], []],
    ("repository", "repair"): [["--plan", "dr.yaml"], ["--plan", "dr.yaml", "--preview"], []],
    ("repository", "keys", "new-epoch"): [
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--recovery", "code.txt", "--drop", "0123abcd"],
        ["--plan", "dr.yaml", "--drop", "0"],
        ["--plan", "dr.yaml", "--key-file", "a.key", "--recovery", "code.txt"],
    ],
    ("points", "list"): [
        ["--plan", "dr.yaml"],
        ["--plan", "missing.yaml"],
        ["--plan", "dr.yaml", "--receipt", "sealift-receipt-1"],
    ],
    ("points", "show"): [["newest", "--plan", "dr.yaml"], ["0000", "--plan", "dr.yaml"]],
    ("points", "diff"): [
        ["newest", "newest", "--plan", "dr.yaml"],
        ["newest", "0", "--plan", "dr.yaml"],
    ],
    ("points", "pin"): [["newest", "--plan", "dr.yaml"], ["0000", "--plan", "dr.yaml"]],
    ("points", "unpin"): [["newest", "--plan", "dr.yaml"], []],
    ("points", "drop"): [
        ["0123abcd", "--plan", "dr.yaml", "--yes"],
        ["0123abcd", "--plan", "dr.yaml"],
        ["newest", "--plan", "dr.yaml", "--yes"],
    ],
    ("restore",): [
        ["newest", "--plan", "dr.yaml", "--disk", "vda", "--to", "x.raw"],
        ["newest", "--plan", "dr.yaml", "--disk", "nosuch", "--to", "x.raw"],
        ["newest", "--plan", "dr.yaml", "--to", "plan.yaml"],
        ["newest", "--plan", "dr.yaml", "--to", "x", "--format", "tape"],
        ["newest", "--plan", "dr.yaml"],
        ["newest", "--plan", "dr.yaml", "--cloud"],
    ],
    ("failover",): [
        ["newest", "--plan", "dr.yaml", "--yes"],
        ["newest", "--plan", "dr.yaml"],
        ["0000", "--plan", "dr.yaml", "--yes"],
        ["--planned", "--plan", "dr.yaml", "--yes"],
        ["--planned", "--undo", "--plan", "dr.yaml"],
        ["--undo", "--plan", "dr.yaml"],
    ],
    ("watch",): [
        ["--plan", "dr.yaml"],
        ["--plan", "dr.yaml", "--set", "rpo=1h"],
        ["--plan", "dr.yaml", "--set", "rpo=1ms"],
    ],
    ("mount",): [
        ["newest", "--plan", "dr.yaml", "--disk", "nosuch"],
        ["newest", "--plan", "dr.yaml", "--port", "0", "--socket", "s"],
        ["newest", "--plan", "dr.yaml", "--port", "0", "--writable"],
        ["newest", "--plan", "dr.yaml", "--writable", "--limit", "much"],
        ["newest", "--plan", "dr.yaml", "--writable", "--limit", "1KiB"],
    ],
    ("drill",): [
        ["newest", "--plan", "dr.yaml", "--accelerator", "tcg"],
        ["newest", "--plan", "dr.yaml", "--proof", "("],
        ["newest", "--plan", "dr.yaml", "--agent", "--tcp", "22"],
        [
            *("newest", "--plan", "dr.yaml", "--accelerator", "tcg"),
            "--seconds",
            "3",
            "--proof",
            "no",
        ],
    ],
    ("image", "info"): [
        ["disk.qcow2"],
        ["plan.yaml"],
        ["missing.qcow2"],
        ["disk.raw", "--format", "raw"],
        ["disk.raw", "--format", "tape"],
    ],
    ("image", "convert"): [
        ["disk.qcow2", "x.vmdk", "--to", "vmdk"],
        ["disk.qcow2", "plan.yaml", "--to", "raw"],
        ["disk.qcow2", "x.raw", "--to", "tape"],
        ["missing.qcow2", "x.raw", "--to", "raw"],
    ],
}


class Lines:
    """Checks lines and counts what was checked."""

    def __init__(self) -> None:
        self.checked = 0
        self.invalid: list[str] = []
        self.commands: set[str] = set()
        self.types: Counter[str] = Counter()
        self._validator = Draft202012Validator(json_schema.schema(closed=True))
        self._shipped = Draft202012Validator(json_schema.schema())

    def check(self, out: str, code: int) -> list[dict[str, Any]]:
        """Every line is one of the schema's; the first is hello, the last is the end."""
        lines = [json.loads(text) for text in out.splitlines()]
        for line in lines:
            self.checked += 1
            self.types[line["type"]] += 1
            if not (self._validator.is_valid(line) and self._shipped.is_valid(line)):
                self.invalid.append(json.dumps(line))
        assert not self.invalid, self.invalid
        assert [line["type"] for line in lines].count("hello") == 1
        assert lines[0]["type"] == "hello"
        assert sum(line["type"] in ("summary", "error") for line in lines) == 1
        assert lines[-1]["type"] in ("summary", "error")
        assert lines[-1]["exit_code"] == code
        assert lines[-1]["command"] == lines[0]["command"]
        if code:
            assert lines[-1]["message"]
            assert lines[-1]["next"]
        self.commands.add(lines[0]["command"])
        return lines


class Examples:
    """Counts examples."""

    def __init__(self) -> None:
        self.run: set[str] = set()
        self.failed: list[str] = []


@pytest.fixture(scope="module")
def lines(evidence: Evidence) -> Iterator[Lines]:
    found = Lines()
    yield found
    named = len(found.commands - {""})
    evidence(
        "json lines",
        f"{found.checked} checked over {named} commands, invalid: {len(found.invalid)}",
    )


@pytest.fixture(scope="module")
def examples(evidence: Evidence) -> Iterator[Examples]:
    found = Examples()
    yield found
    evidence("examples", f"{len(found.run)} run, failed: {len(found.failed)}")


@pytest.fixture
def files(world: Any) -> Any:
    """The files that examples and cases name."""
    folder: Path = world.folder
    (folder / "broken.yaml").write_text("migration: [\n")
    write_plan(folder)
    (folder / "web.yaml").write_text((folder / "plan.yaml").read_text())
    create = ["qemu-img", "create", "-q", "-f"]
    subprocess.run([*create, "qcow2", folder / "disk.qcow2", "4M"], check=True)
    subprocess.run([*create, "raw", folder / "disk.raw", "1M"], check=True)
    return world


# ---------------------------------------------------------------------- JSON


def test_the_schema_is_one_and_the_shipped_file_is_it() -> None:
    """To renew it: ``make generated``."""
    Draft202012Validator.check_schema(json_schema.schema())
    shipped = Path(__file__).parents[2] / "docs" / "json-lines.schema.json"
    assert shipped.read_text() == json_schema.schema_text()


def test_every_command_has_its_cases() -> None:
    assert set(CASES) == set(COMMANDS)


CASE_WORDS = [[*words, *case] for words, cases in CASES.items() for case in cases]


@pytest.mark.tools
@pytest.mark.parametrize("words", CASE_WORDS, ids=" ".join)
def test_every_command_keeps_the_schema(files: Any, lines: Lines, words: list[str]) -> None:
    prepare(files, " ".join(words))
    code, out, _ = files.run(*words, "--json")
    found = lines.check(out, code)
    assert " ".join(words).startswith(found[0]["command"])


@pytest.mark.parametrize("words", list(PAGES), ids=" ".join)
def test_wrong_words_keep_the_schema(
    world: Any, lines: Lines, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PAGES[words]
    wrong = [["--nosuch"], ["too", "many", "words", "for", "anybody"]]
    wrong += [[name] for option in page.options if not option.flag for name in option.names]
    for more in wrong:
        code, out, _ = world.run(*words, *more[:-1], "--json", more[-1])
        assert code == 2
        assert lines.check(out, code)[0]["command"] == " ".join(words)
        code, out, _ = world.run("--json", *words, *more)
        assert code == 2
        lines.check(out, code)
    for value in ("1", "maybe"):
        monkeypatch.setenv("SEALIFT_JSON", value)
        code, out, _ = world.run(*words, "--nosuch")
        assert code == 2
        lines.check(out, code)


@pytest.mark.parametrize("words", list(PAGES), ids=" ".join)
def test_help_keeps_the_schema(world: Any, lines: Lines, words: Words) -> None:
    code, out, _ = world.run(*words, "--help", "--json")
    (_, page) = lines.check(out, code)
    assert code == 0
    assert page["text"].startswith("Usage: sealift")


def test_words_that_are_no_command(world: Any, lines: Lines) -> None:
    for words in (["nosuch"], ["--nosuch"], ["image"], ["config", "nosuch"], [""], ["--version"]):
        for given in (["--json", *words], [*words, "--json"]):
            code, out, _ = world.run(*given)
            lines.check(out, code)
            assert code == (0 if words == ["--version"] else 2)
    code, out, _ = world.run("--json")
    lines.check(out, code)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEALIFT_LIMITS__BANDWIDTH", "fast"),
        ("SEALIFT_LIMITS__NOSUCH", "1"),
        ("SEALIFT_PLAN", "missing.yaml"),
        ("SEALIFT_SET", "nothing"),
    ],
)
def test_wrong_variables_keep_the_schema(
    world: Any, lines: Lines, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    for words, command in COMMANDS.items():
        if any(option.names[0] == "--plan" for option in command.options):
            yes = ["--yes"] if words in (("cutover",), ("abandon",)) else []
            code, out, _ = world.run(*words, *yes, "--json")
            lines.check(out, code)
            assert code == 2, words


def test_unexpected_errors_keep_the_schema_and_name_their_log(
    world: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks below any command: one line, a log file, no trace on the screen."""
    from flows.cli import output

    def broken(self: Any, last: Any) -> None:
        raise ZeroDivisionError("nobody expected this")

    monkeypatch.setattr(output.Output, "summary", broken)
    for words in (["version"], ["help", "events"], ["config", "show"], ["replicate"], ["status"]):
        code, out, err = world.run(*words, "--json")
        assert code == 1
        last = lines.check(out, code)[-1]
        assert last["code"] == "unexpected"
        assert "Traceback" in Path(last["log"]).read_text()
        assert "Traceback" not in out + err


def test_a_whole_migration_keeps_the_schema(world: Any, lines: Lines) -> None:
    steps = (["migrate"], ["status"], ["plan"], ["cutover", "--yes"], ["status"])
    for words in steps:
        code, out, _ = world.run(*words, "--json")
        lines.check(out, code)
        assert code == 0


def test_a_damaged_repository_keeps_the_schema(files: Any, lines: Lines) -> None:
    prepare(files, "verify")
    for pack in (files.folder / "points" / "packs").rglob("*"):
        if pack.is_file():
            content = bytearray(pack.read_bytes())
            content[40] ^= 1
            pack.write_bytes(content)
    code, out, _ = files.run("verify", "--plan", "dr.yaml", "--json")
    found = lines.check(out, code)
    assert code == 13
    damage = [line for line in found if line["type"] == "damage"]
    assert {len(line["points"]) for line in damage} == {1}
    code, _, err = files.run("restore", "newest", "--plan", "dr.yaml", "--to", "out")
    assert code == 13, err
    assert not list((files.folder / "out").iterdir())


def test_a_name_that_is_not_utf8_is_still_json(world: Any, lines: Lines) -> None:
    name = os.fsdecode(b"\xff\xe9.yaml")
    code, out, _ = world.run("config", "init", name, "--json")
    assert code == 0
    assert lines.check(out, code)[-1]["path"] == name
    code, out, _ = world.run("config", "init", name, "--overwrite")
    assert code == 0
    assert "wrote" in out


# ---------------------------------------------------------------------- examples


@pytest.mark.parametrize("words", list(PAGES), ids=" ".join)
def test_every_help_page_has_examples(world: Any, words: Words) -> None:
    page = PAGES[words]
    assert 1 <= len(page.examples) <= 3
    code, out, _ = world.run(*words, "--help")
    assert code == 0
    for example in page.examples:
        assert example in [line.strip() for line in out.splitlines()]
        assert example.startswith(f"sealift {' '.join(words)}".strip())


def test_help_keeps_examples_whole_on_a_narrow_terminal(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for page in PAGES.values():
        _, out, _ = world.run(*page.words, "--help")
        for example in page.examples:
            assert f"{example}\n" in out


BEFORE: dict[str, list[str]] = {
    "sealift status": ["replicate"],
    "sealift status --id web-01": ["replicate"],
    "sealift status --json": ["replicate"],
    "sealift cutover --no-rounds --yes": ["migrate"],
    "sealift abandon --yes": ["replicate"],
}
"""What was run before, where an example needs something to be there."""


NEW = {
    "sealift config init": "plan.yaml",
    "sealift config init dr.yaml --kind replication": "dr.yaml",
    "sealift image convert disk.raw disk.qcow2 --format raw --to qcow2 --compress": "disk.qcow2",
}
"""Examples that write a file which is there for the others."""


@contextmanager
def circumstances(world: Any, example: str) -> Iterator[None]:
    """What has to be there for an example."""
    prepare(world, example.removeprefix("sealift "))
    for words in BEFORE.get(example, []):
        assert world.run(words)[0] == 0
    if "cutover --undo" in example:
        world.run("migrate")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.cloud, "health", killed)
            with pytest.raises(Killed):
                world.run("cutover", "--yes")
    if "undelete" in example:
        write_plan(world.folder, place="s3: {bucket: example-points}")
    if example in NEW:
        (world.folder / NEW[example]).unlink()
    machine = real_machine(world.folder) if "doctor" in example else nullcontext()
    bucket = empty_bucket() if "undelete" in example else nullcontext()
    with machine, bucket:
        yield


@contextmanager
def empty_bucket() -> Iterator[None]:
    """A bucket in which nothing was ever put; what is in one, tests/objects tries on a server."""

    def versions(**asked: object) -> dict[str, object]:
        assert asked["Bucket"] == "example-points"
        return {"IsTruncated": False}

    class Clients:
        s3 = SimpleNamespace(list_object_versions=versions)

        def __init__(self, spec: object) -> None:
            pass

        def close(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectors.aws.session.AwsClients", Clients)
        yield


def killed(*_: object) -> None:
    raise Killed("in the middle of a cutover")


@contextmanager
def real_machine(folder: Path) -> Iterator[None]:
    """A QEMU without a machine in it, that greets on the socket which the plan names."""
    socket = folder / "qmp.sock"
    plan = folder / "plan.yaml"
    plan.write_text(plan.read_text().replace("/run/web.qmp", str(socket)))
    words = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults"]
    process = subprocess.Popen([*words, "-qmp", f"unix:{socket},server=on,wait=off"])
    try:
        while not socket.exists():
            assert process.poll() is None
            CLOCK.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


ALONE = {"sandbox", "demo", "serve", "mount"}
"""Examples of these run as processes, below."""


def here(group: set[str], *, inside: bool) -> list[str]:
    return sorted({e for _, e in EXAMPLES if (e.split()[1] in group) == inside})


@pytest.mark.tools
@pytest.mark.parametrize("example", here(ALONE, inside=False))
def test_every_example_runs(files: Any, examples: Examples, example: str) -> None:
    with circumstances(files, example):
        code, _, err = files.run(*shlex.split(example)[1:])
    examples.run.add(example)
    if code:
        examples.failed.append(example)
    assert code == 0, err


@pytest.mark.tools
@pytest.mark.parametrize("example", here(ALONE, inside=False))
def test_every_example_runs_for_machines(
    files: Any, lines: Lines, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with circumstances(files, example):
        monkeypatch.setenv("SEALIFT_JSON", "1")
        code, out, _ = files.run(*shlex.split(example)[1:])
    lines.check(out, code)
    assert code == 0


# ---------------------------------------------------------------------- examples that serve


class Service:
    """An example as a process, in a folder of its own, speaking JSON."""

    def __init__(self, example: str, folder: Path, **variables: str) -> None:
        command = [sys.executable, "-m", "flows.cli.main", *shlex.split(example)[1:]]
        env = {**os.environ, "SEALIFT_JSON": "1", "XDG_STATE_HOME": str(folder / "state")}
        self.seen: list[str] = []
        self._err = folder / "stderr"
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**env, **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=self._err.open("w"),
            start_new_session=True,
        )

    def until(self, kind: str, count: int = 1) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seen.append(line)
            count -= json.loads(line)["type"] == kind
            if count == 0:
                return
        raise AssertionError(f"{kind} never came: {self.seen} {self._err.read_text()}")

    def end(self) -> tuple[int, str]:
        """Stop it as a terminal does; exit code and all lines."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        rest, _ = self._process.communicate()
        return self._process.returncode, "".join([*self.seen, rest])

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


@contextmanager
def service(example: str, folder: Path, **variables: str) -> Iterator[Service]:
    found = Service(example, folder, **variables)
    try:
        yield found
    finally:
        found.close()


def counted(lines: Lines, examples: Examples, example: str, ended: tuple[int, str]) -> None:
    code, out = ended
    examples.run.add(example)
    if code:
        examples.failed.append(example)
    lines.check(out, code)
    assert code == 0, out


@pytest.mark.sandbox
@pytest.mark.parametrize("example", here({"sandbox"}, inside=True))
def test_the_examples_of_sandbox(
    tmp_path: Path, lines: Lines, examples: Examples, example: str
) -> None:
    with service(example, tmp_path) as running:
        running.until("sandbox")
        counted(lines, examples, example, running.end())


@pytest.mark.parametrize("example", here({"mount"}, inside=True))
def test_the_examples_of_mount(files: Any, lines: Lines, examples: Examples, example: str) -> None:
    prepare(files, example.removeprefix("sealift "))
    with service(example, files.folder) as running:
        running.until("served")
        uri = json.loads(running.seen[-1])["uri"]
        told = subprocess.run(["qemu-img", "info", uri], check=True, capture_output=True, text=True)
        assert "virtual size: 4 MiB" in told.stdout
        write = ["qemu-io", "-f", "raw", "-c", "write -P 171 0 64k", uri]
        done = subprocess.run(write, check=False, capture_output=True)
        assert (done.returncode == 0) == ("--writable" in example)
        counted(lines, examples, example, running.end())


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("example", here({"serve"}, inside=True))
def test_the_examples_of_serve(files: Any, lines: Lines, examples: Examples, example: str) -> None:
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    home = str(files.folder / "prefect")
    with service(example, files.folder, PREFECT_API_URL=url, PREFECT_HOME=home) as running:
        running.until("deployment", 5)
        counted(lines, examples, example, running.end())


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.sandbox
@pytest.mark.timeout(900)
@pytest.mark.parametrize("example", here({"demo"}, inside=True))
def test_the_examples_of_demo(
    tmp_path: Path, lines: Lines, examples: Examples, example: str
) -> None:
    with service(example, tmp_path) as running:
        counted(lines, examples, example, running.wait())


def test_no_kind_of_line_is_left_out(lines: Lines) -> None:
    """Runs last: the cases above make every line that the schema knows, but of services."""
    assert set(lines.types) >= TYPES - {"deployment", "sandbox"}
