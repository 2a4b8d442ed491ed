"""TLS: who is not who we asked for is refused, and there is no way back to plain text."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connectors.nbd import NbdReader, TcpAddress, TlsSettings, UnixAddress
from connectors.nbd.transport import Transport
from sandbox.nbd.hostile import HostileServer, Peer
from sandbox.nbd.servers import Process, free_port, nbdkit, qemu_nbd
from sealift.clock import SystemClock
from sealift.errors import ConfigError, ConnectionLostError, SourceError
from sealift.testing.contracts import ReaderCase, ReaderContract, pattern, read
from sealift.units import MiB

pytestmark = pytest.mark.tools

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAR = datetime(2099, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder(name("test authority"), name("test authority"), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(FAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Authority(key, builder.sign(key, hashes.SHA256()))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def folder(
    path: Path, issuer: Authority, role: str, *, host: str = "127.0.0.1", end: datetime = FAR
) -> Path:
    """A directory as qemu-nbd and nbdkit want it: ca-cert, ROLE-cert and ROLE-key in PEM."""
    path.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    address = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder(issuer.certificate.subject, name(role), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .sign(issuer.key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (path / "ca-cert.pem").write_bytes(issuer.certificate.public_bytes(pem))
    (path / f"{role}-cert.pem").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (path / f"{role}-key.pem").write_bytes(private)
    return path


@pytest.fixture(scope="module")
def ca() -> Authority:
    return authority()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(pattern(MiB))
    return path


def serve(
    kind: str, certificates: Path, disk: Path, *, verify: bool = False
) -> tuple[Process, int]:
    """A TLS server on a TCP port of 127.0.0.1."""
    port = free_port()
    if kind == "nbdkit":
        options = ["--tls=require", f"--tls-certificates={certificates}"]
        options += ["--tls-verify-peer"] if verify else []
        listen = [f"--port={port}", "--ipaddr=127.0.0.1"]
        command = ["nbdkit", "--foreground", *listen, *options, "file", str(disk)]
        return Process(command, port), port
    peers = "yes" if verify else "no"
    secret = f"tls-creds-x509,id=t,endpoint=server,dir={certificates},verify-peer={peers}"
    listen = ["--bind=127.0.0.1", f"--port={port}", "--persistent", "--shared=8"]
    options = ["--object", secret, "--tls-creds=t", "--format=raw", "--read-only"]
    return Process(["qemu-nbd", *listen, *options, str(disk)], port), port


def open_reader(port: int, tls: TlsSettings | None) -> NbdReader:
    return NbdReader(TcpAddress("127.0.0.1", port), identity="i", tls=tls, deadline_seconds=20)


SERVERS = ["nbdkit", "qemu-nbd"]


class TestReaderOverTls(ReaderContract):
    @pytest.fixture(params=SERVERS)
    def reader_case(
        self, request: pytest.FixtureRequest, ca: Authority, tmp_path: Path, disk: Path
    ) -> Iterator[ReaderCase]:
        certificates = folder(tmp_path / "server", ca, "server")
        server, port = serve(request.param, certificates, disk)
        settings = TlsSettings(ca_file=certificates / "ca-cert.pem")
        with server:
            yield ReaderCase(lambda: open_reader(port, settings), pattern(MiB))


@pytest.mark.parametrize("kind", SERVERS)
def test_an_expired_certificate_is_refused(
    kind: str, ca: Authority, tmp_path: Path, disk: Path
) -> None:
    certificates = folder(tmp_path / "server", ca, "server", end=NOW - timedelta(days=1))
    if kind == "qemu-nbd":  # it looks at its own certificate first
        with pytest.raises(RuntimeError, match="expired"):
            serve(kind, certificates, disk)
        return
    server, port = serve(kind, certificates, disk)
    with server, pytest.raises(SourceError, match="expired") as caught:
        open_reader(port, TlsSettings(ca_file=certificates / "ca-cert.pem"))
    assert not caught.value.retryable
    assert caught.value.next_step


@pytest.mark.parametrize("kind", SERVERS)
def test_another_name_is_refused_unless_expected(
    kind: str, ca: Authority, tmp_path: Path, disk: Path
) -> None:
    certificates = folder(tmp_path / "server", ca, "server", host="other.example")
    authorities = certificates / "ca-cert.pem"
    server, port = serve(kind, certificates, disk)
    with server:
        with pytest.raises(SourceError, match="not acceptable"):
            open_reader(port, TlsSettings(ca_file=authorities))
        named = TlsSettings(ca_file=authorities, server_name="other.example")
        with closing(open_reader(port, named)) as reader:
            assert read(reader, 0, 512) == pattern(MiB)[:512]


@pytest.mark.parametrize("kind", SERVERS)
def test_an_unknown_authority_is_refused(
    kind: str, ca: Authority, tmp_path: Path, disk: Path
) -> None:
    certificates = folder(tmp_path / "server", ca, "server")
    stranger = folder(tmp_path / "stranger", authority(), "server")
    server, port = serve(kind, certificates, disk)
    with server:
        for settings in (TlsSettings(ca_file=stranger / "ca-cert.pem"), TlsSettings()):
            with pytest.raises(SourceError, match="not acceptable"):
                open_reader(port, settings)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_may_know_its_clients(
    kind: str, ca: Authority, tmp_path: Path, disk: Path
) -> None:
    certificates = folder(tmp_path / "server", ca, "server")
    ours = folder(tmp_path / "client", ca, "client", host="client.example")
    server, port = serve(kind, certificates, disk, verify=True)
    with server:
        known = TlsSettings(
            ca_file=ours / "ca-cert.pem",
            cert_file=ours / "client-cert.pem",
            key_file=ours / "client-key.pem",
        )
        with closing(open_reader(port, known)) as reader:
            assert read(reader, 0, 512) == pattern(MiB)[:512]
        with pytest.raises((SourceError, ConnectionLostError)):
            open_reader(port, TlsSettings(ca_file=ours / "ca-cert.pem"))


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_demands_tls_is_named(
    kind: str, ca: Authority, tmp_path: Path, disk: Path
) -> None:
    server, port = serve(kind, folder(tmp_path / "server", ca, "server"), disk)
    with server, pytest.raises(SourceError, match="demands TLS"):
        open_reader(port, None)


@pytest.mark.parametrize("kind", [*SERVERS, "tls-fallback"])
def test_a_server_without_tls_gets_no_plain_text(kind: str, ca: Authority, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(pattern(MiB))
    where = tmp_path / "socket"
    if kind == "qemu-nbd":
        server = qemu_nbd(where, "--format=raw", "--read-only", str(disk))
    elif kind == "nbdkit":
        server = nbdkit(where, "--tls=off", "file", str(disk))
    else:  # shows a decoy to clients that fall back
        server = nbdkit(where, "--tls=off", "--filter=tls-fallback", "file", str(disk))
    certificates = folder(tmp_path / "server", ca, "server")
    with server, pytest.raises(SourceError, match="does not offer TLS"):
        NbdReader(
            UnixAddress(where),
            identity="i",
            tls=TlsSettings(ca_file=certificates / "ca-cert.pem"),
        )


def test_a_stalling_handshake_meets_the_deadline(ca: Authority, tmp_path: Path) -> None:
    def stall(peer: Peer) -> None:
        peer.greet()
        option, _ = peer.receive_option()
        peer.option_reply(option, 1).stall()

    certificates = folder(tmp_path / "server", ca, "server")
    clock = SystemClock()
    started = clock.monotonic()
    with HostileServer(tmp_path / "s", stall), pytest.raises(ConnectionLostError, match="within"):
        NbdReader(
            UnixAddress(tmp_path / "s"),
            identity="i",
            deadline_seconds=0.5,
            tls=TlsSettings(ca_file=certificates / "ca-cert.pem"),
        )
    assert clock.monotonic() - started < 60


def test_text_after_the_promise_of_tls_is_no_tls(ca: Authority, tmp_path: Path) -> None:
    """A meddler that answers STARTTLS itself and goes on in plain text."""

    def meddle(peer: Peer) -> None:
        peer.greet()
        option, _ = peer.receive_option()
        peer.option_reply(option, 1).option_reply(8, 1).stall()

    certificates = folder(tmp_path / "server", ca, "server")
    with HostileServer(tmp_path / "s", meddle), pytest.raises(SourceError, match="TLS"):
        NbdReader(
            UnixAddress(tmp_path / "s"),
            identity="i",
            tls=TlsSettings(ca_file=certificates / "ca-cert.pem"),
        )


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    for settings in (TlsSettings(ca_file=wrong), TlsSettings(ca_file=tmp_path / "none")):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            settings.context()


def test_the_transport_has_no_way_back() -> None:
    """Nothing in the transport turns TLS off again."""
    assert not [member for member in dir(Transport) if "stop_tls" in member or "unwrap" in member]
