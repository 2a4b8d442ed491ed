"""Secrets stay where they were given, in every way a run can go (I8; fault 53).

The evidence counts pairs of a secret (by the way it was given) and a place that was
searched while that secret was in use; each pair counts once however many runs looked there.
What may hold a secret is not searched: the file that it was given in, and for the disk's
content its image, scratch files and target. Python below the command, which is Sealift's
guardian or Prefect's server, runs with the user's variables; other children must not.
"""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from connectors.aws.errors import aws_call
from connectors.aws.session import AwsClients
from connectors.aws.spec import AwsSpec
from connectors.local.qemu_nbd import QemuNbdServer
from connectors.nbd.address import TcpAddress, parse_uri
from connectors.nbd.handshake import Endpoint
from connectors.nbd.tls import TlsSettings
from converters.image import Image, ImageFormat
from flows.run_log import Redactor, RunLog
from sandbox.aws import Fault, FaultKind
from sealift.clock import SystemClock
from sealift.errors import SealiftError
from tests.secrets.canaries import ProcessWatch, Search, canary, chain
from tests.secrets.conftest import Bench, Keys

Evidence = Callable[[str, str], None]
pytestmark = [pytest.mark.fault(53), pytest.mark.sandbox, pytest.mark.tools]


@pytest.fixture(scope="module", autouse=True)
def _counted(bench: Bench, evidence: Evidence) -> Iterator[None]:
    yield
    search = bench.search
    evidence("canary secrets", f"{len(search.looked)} places, found: {len(search.found)}")


def clean(bench: Bench) -> None:
    assert bench.search.found == []


def last(out: str) -> dict[str, object]:
    return dict(json.loads(out.splitlines()[-1]))


@contextmanager
def faulty(bench: Bench, *faults: Fault) -> Iterator[None]:
    for fault in faults:
        bench.sandbox.faults.add(fault)
    try:
        yield
    finally:
        bench.sandbox.faults.clear()


def quoting(keys: Keys, code: str, status: int) -> Fault:
    """A refusal whose text quotes what was signed, as AWS's does."""
    text = " ".join(f"Signature={c.value} X-Amz-Security-Token: {c.value}" for c in keys.canaries)
    return Fault(FaultKind.API_ERROR, times=0, status=status, code=code, message=text)


# ---------------------------------------------------------------------- it goes well


@pytest.mark.parametrize(
    "way",
    [
        "by_environment",
        pytest.param("by_file", marks=pytest.mark.slow),
        pytest.param("by_process", marks=pytest.mark.slow),
    ],
)
def test_a_round_with_credentials_given_in_every_way(bench: Bench, way: str) -> None:
    keys: Keys = getattr(bench, way)()
    given = {"canaries": keys.canaries, "variables": keys.variables}
    ended = bench.run("replicate", "--json", **given)  # type: ignore[arg-type]
    assert ended.code == 0, ended.out + ended.err
    clean(bench)
    landed = b"".join(p.read_bytes() for p in (bench.folder / "aws").rglob("*") if p.is_file())
    assert bench.disk.value.encode() in landed, "the disk did not arrive: nothing was proven"


@pytest.mark.slow
def test_what_commands_show(bench: Bench) -> None:
    keys = bench.by_environment()
    for words in (["config", "show"], ["status"], ["doctor"], ["plan"], ["preflight", "--json"]):
        ended = bench.run(*words, canaries=keys.canaries, variables=keys.variables)
        assert ended.out + ended.err
    clean(bench)


@pytest.mark.slow
def test_tools_that_a_command_starts(bench: Bench) -> None:
    keys, source = bench.by_environment(), bench.folder / "vm" / "another.raw"
    source.write_bytes(bench.disk.value.encode().ljust(512, b".") * 65_536)
    words = ["image", "convert", str(source), str(source.with_suffix(".qcow2")), "--to", "qcow2"]
    ended = bench.run(*words, "-f", "raw", canaries=keys.canaries, variables=keys.variables)
    assert ended.code == 0, ended.err
    assert any(b"qemu-img" in seen.words for seen in ended.watched.seen), "no tool was seen"
    clean(bench)


# ---------------------------------------------------------------------- it fails


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("SignatureDoesNotMatch", 403, 32),
        pytest.param("ExpiredTokenException", 400, 32, marks=pytest.mark.slow),
        pytest.param("AccessDeniedException", 403, 30, marks=pytest.mark.slow),
        pytest.param("ValidationException", 400, 30, marks=pytest.mark.slow),
    ],
)
def test_a_refusal_that_quotes_what_was_signed(
    bench: Bench, code: str, status: int, exit_code: int
) -> None:
    keys = bench.by_environment()
    with faulty(bench, quoting(keys, code, status)):
        ended = bench.run("replicate", "--json", canaries=keys.canaries, variables=keys.variables)
    assert ended.code == exit_code, ended.out + ended.err
    clean(bench)


def dead_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["endpoint", "proxy"])
def test_an_address_with_a_password_that_does_not_answer(bench: Bench, where: str) -> None:
    keys, password = bench.by_environment(), canary(f"password of the {where}")
    name = {"endpoint": "AWS_ENDPOINT_URL", "proxy": "HTTP_PROXY"}[where]
    address = f"http://somebody:{password.value}@127.0.0.1:{dead_port()}"
    variables = {**keys.variables, name: address}
    ended = bench.run(
        "preflight", "--json", canaries=(*keys.canaries, password), variables=variables
    )
    assert ended.code in (2, 75), ended.out + ended.err
    clean(bench)


@pytest.mark.parametrize(
    "line",
    [
        "target.aws.endpoint=http://somebody:{}@127.0.0.1:1/",
        "target.aws.region=https://somebody:{}@host/ and more",
        "source.qemu.qmp=nbd://somebody:{}@host/x",
    ],
)
def test_a_plan_with_a_password_in_it(bench: Bench, line: str) -> None:
    keys, password = bench.by_environment(), canary("password in a plan")
    for words in (["--set", line.format(password.value)], ["--json", "--set", line.format("x")]):
        ended = bench.run(
            *("preflight", *words), canaries=(*keys.canaries, password), variables=keys.variables
        )
        assert ended.code != 0
    clean(bench)


@pytest.mark.slow
def test_a_plan_file_that_holds_a_key_where_none_belongs(bench: Bench) -> None:
    keys, misplaced = bench.by_environment(), canary("key in a plan file")
    plan = (bench.folder / "plan.yaml").read_text()
    wrong = bench.folder / "given" / "wrong.yaml"
    wrong.write_text(
        plan.replace("  aws:\n", f"  aws:\n    secret_access_key: {misplaced.value}\n")
    )
    ended = bench.run(
        *("preflight", "--plan", str(wrong)),
        canaries=(*keys.canaries, misplaced),
        variables=keys.variables,
    )
    assert ended.code == 2
    assert "secret_access_key" in ended.err
    clean(bench)


@pytest.mark.slow
def test_a_source_that_is_not_there_and_one_that_does_not_answer(bench: Bench) -> None:
    keys = bench.by_environment()
    gone = bench.folder / "gone.qmp"
    ended = bench.run(
        *("replicate", "--json", "--set", f"source.qemu.qmp={gone}"),
        canaries=keys.canaries,
        variables=keys.variables,
    )
    assert ended.code == 20
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(gone))
        mute.listen()
        threading.Thread(target=_chatter, args=(mute,), daemon=True).start()
        ended = bench.run(
            *("replicate", "--json", "--set", f"source.qemu.qmp={gone}"),
            canaries=keys.canaries,
            variables=keys.variables,
        )
    assert ended.code in (20, 75), ended.out + ended.err
    clean(bench)


def _chatter(listener: socket.socket) -> None:
    """A server that speaks, but not QMP."""
    while True:
        try:
            client, _ = listener.accept()
            client.sendall(b"220 nobody here\r\n")
            client.close()
        except OSError:
            return


@pytest.mark.slow
def test_killed_in_the_middle_and_what_the_next_run_finds(bench: Bench) -> None:
    keys = bench.by_environment()
    given = {"canaries": keys.canaries, "variables": keys.variables}
    bench.vm.write(0, 0x5A, 0, 2 * 1024 * 1024)
    ended = bench.run("replicate", "--json", kill_at="PutSnapshotBlock", **given)  # type: ignore[arg-type]
    assert ended.code in (-9, 0)
    ended = bench.run("replicate", "--json", **given)  # type: ignore[arg-type]
    assert ended.code == 0, ended.out + ended.err
    clean(bench)


# ---------------------------------------------------------------------- with Prefect


@pytest.mark.slow
def test_a_prefect_server_that_refuses_or_is_gone(bench: Bench) -> None:
    keys = bench.by_environment()
    api_key, auth = canary("PREFECT_API_KEY"), canary("PREFECT_API_AUTH_STRING")
    password = canary("password of PREFECT_API_URL")
    url = f"http://somebody:{password.value}@127.0.0.1:{dead_port()}/api"
    variables = {
        **keys.variables,
        "PREFECT_API_URL": url,
        "PREFECT_API_KEY": api_key.value,
        "PREFECT_API_AUTH_STRING": f"admin:{auth.value}",
    }
    ended = bench.run(
        *("replicate", "--json"),
        canaries=(*keys.canaries, api_key, auth, password),
        variables=variables,
    )
    assert ended.code == 75, ended.out + ended.err
    assert "[hidden]@127.0.0.1" in ended.out
    clean(bench)


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(400)
def test_prefects_database_after_a_good_and_a_failed_run(bench: Bench) -> None:
    keys = bench.by_environment()
    given = {"canaries": keys.canaries, "variables": keys.variables}
    ended = bench.run("replicate", "--prefect", "--json", **given)  # type: ignore[arg-type]
    assert ended.code == 0, ended.out + ended.err
    with faulty(bench, quoting(keys, "SignatureDoesNotMatch", 403)):
        ended = bench.run("replicate", "--prefect", "--json", **given)  # type: ignore[arg-type]
    assert ended.code == 32, ended.out + ended.err
    database = bench.folder / "prefect" / "prefect.db"
    assert b"sealift-replicate" in database.read_bytes(), "no run is in Prefect's database"
    clean(bench)


# ---------------------------------------------------------------------- in the process


def test_exceptions_and_all_that_they_come_from(bench: Bench) -> None:
    """Faults of every kind, with the SDK's own exceptions looked at through ours."""
    keys = bench.by_environment()
    password = canary("password of the endpoint, in the process")
    addresses = (
        bench.sandbox.endpoint_url,
        f"http://somebody:{password.value}@127.0.0.1:{dead_port()}",
    )
    kinds = (FaultKind.RESET_BEFORE, FaultKind.ERROR_BEFORE, FaultKind.THROTTLE)
    faults = [quoting(keys, "SignatureDoesNotMatch", 403), quoting(keys, "Odd", 418)]
    faults += [Fault(kind, times=0) for kind in kinds]
    seen = 0
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name, value in keys.variables.items():
            patch.setenv(name, value)
        for address in addresses:
            clients = AwsClients(
                AwsSpec("subnet-1", ("sg-1",), region="us-east-1", endpoint=address)
            )
            stack.callback(clients.close)
            for fault in faults:
                with faulty(bench, fault):
                    try:
                        with aws_call("ebs:ListSnapshotBlocks"):
                            clients.ebs.list_snapshot_blocks(SnapshotId="snap-0123456789abcdef0")
                    except SealiftError as error:
                        seen += 1
                        bench.search.exception((*keys.canaries, password), error)
    assert seen == len(addresses) * len(faults)
    clean(bench)


def test_addresses_and_keys_of_nbd(bench: Bench, tmp_path: Path) -> None:
    """An address with a user is refused, and so is a key file with anything in it."""
    password, key = canary("password of an NBD address"), canary("key of NBD's TLS")
    for uri in (
        f"nbd://somebody:{password.value}@host/x",
        f"nbd://host:{password.value}/x",
        f"http://somebody:{password.value}@host/",
    ):
        with pytest.raises(SealiftError) as caught:
            parse_uri(uri)
        bench.search.exception((password,), caught.value)
    bad = tmp_path / "key.pem"
    text = f"-----BEGIN PRIVATE KEY-----\n{key.value}\n-----END PRIVATE KEY-----\n"
    bad.write_text(text)
    tls = TlsSettings(ca_file=None, cert_file=bad, key_file=bad)
    with pytest.raises(SealiftError) as caught:
        tls.context()
    bench.search.exception((key,), caught.value)
    endpoint = Endpoint(TcpAddress("127.0.0.1", dead_port()), tls=tls, deadline_seconds=1.0)
    bench.search.data((key,), "exceptions", repr(endpoint).encode())
    clean(bench)


def test_the_server_of_an_image_gets_no_credentials(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = bench.by_environment()
    for name, value in keys.variables.items():
        monkeypatch.setenv(name, value)
    with QemuNbdServer(Image.at(bench.vm.image(0), ImageFormat.RAW)) as server:
        shown = Path(f"/proc/{server.pid}/environ").read_bytes()
        words = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert b"qemu-nbd" in words
    bench.search.data(keys.canaries, "environment of children", shown)
    bench.search.data(keys.canaries, "arguments of processes", words)
    clean(bench)


_PROBE = """
import ctypes, resource, sys
from pathlib import Path
from flows.cli.main import main
sys.argv = ["sealift", "version"]
main()
print("dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
print("core", resource.getrlimit(resource.RLIMIT_CORE))
print("filter", Path("/proc/self/coredump_filter").read_text())
import subprocess
print("child", subprocess.run(["cat", "/proc/self/coredump_filter", "/proc/self/limits"],
      capture_output=True, text=True).stdout)
"""


def test_no_core_dump_of_a_command_or_its_children() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True
    )
    assert "dumpable 0\n" in done.stdout
    assert "core (0, 0)\n" in done.stdout
    assert "filter 00000000\n" in done.stdout
    child = done.stdout.partition("child ")[2]
    assert child.startswith("00000000\n")
    assert re.search(r"Max core file size +0 +0 ", child)


# ---------------------------------------------------------------------- the search can fail


def test_a_planted_leak_is_found_wherever_it_is(tmp_path: Path) -> None:
    secret = canary("planted")
    search = Search()
    (tmp_path / "state").mkdir()
    for n, form in enumerate(secret.forms):
        (tmp_path / "state" / f"{n}.log").write_bytes(b"before " + form + b" after")
    (tmp_path / "state" / f"{secret.value}.json").write_text("{}")
    search.folder((secret,), "state", tmp_path)
    assert len(search.found) == len(secret.forms) + 1
    assert {place for _, place, _ in search.found} == {"state"}


def test_a_planted_leak_in_an_exceptions_context_is_found() -> None:
    secret, search = canary("planted"), Search()

    def careless() -> None:
        try:
            raise ValueError(f"signed with {secret.value}")
        except ValueError:
            raise SealiftError("refused", detail="none") from None

    with pytest.raises(SealiftError) as caught:
        careless()
    assert len(list(chain(caught.value))) == 2
    search.exception((secret,), caught.value)
    assert search.found == [("planted", "exceptions", "ValueError")]


def test_a_planted_leak_in_a_childs_arguments_and_variables_is_found() -> None:
    secret = canary("planted")
    env = {**os.environ, "CANARY": secret.value}
    with ProcessWatch(os.getpid()) as watched:
        subprocess.run(["sleep", "1"], env=env, check=True)
        subprocess.run(["sh", "-c", f"sleep 1; : {secret.value}"], check=True)
    told = {seen.words.split(b"\0")[0] for seen in watched.seen}
    assert {b"sleep", b"sh"} <= told
    search = Search()
    for seen in watched.seen:
        search.data((secret,), "argv", seen.words)
        search.data((secret,), "environ", seen.variables)
    assert {place for _, place, _ in search.found} == {"argv", "environ"}


def test_a_redactor_that_forgets_lets_the_suite_fail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run and search as above, in the process, with the log's redactor switched off."""
    monkeypatch.setattr(Redactor, "__call__", lambda self, text: text)
    secret, search = canary("planted"), Search()
    logs = bench.folder / "vm" / "logs"
    with RunLog(logs, "planted", SystemClock(), {}):
        logging.getLogger("sealift").warning("signature=%s", secret.value)
    search.folder((secret,), "logs", logs)
    assert [place for _, place, _ in search.found] == ["logs"]
