"""A certificate authority of one sandbox, and the certificate of its servers.

Real SDKs refuse to send bearer tokens without TLS and to speak to servers that they cannot
verify; both stay as they are, and clients get the authority's file by ``REQUESTS_CA_BUNDLE``.
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealift.clock import SystemClock

_LIFE = timedelta(days=30)
_ROOT_NAME = "Sealift sandbox authority"


@dataclass(frozen=True, slots=True)
class Authority:
    """Files in PEM; all are private to the user.

    Attributes:
        root: the authority's certificate, for clients.
        certificate: of the servers on 127.0.0.1, signed by the authority.
        key: the servers' private key.
    """

    root: Path
    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """How a server of the sandbox speaks TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """How a client verifies a server of the sandbox."""
        return ssl.create_default_context(cafile=str(self.root))


def make_authority(folder: Path) -> Authority:
    """Make a new authority and one server certificate below ``folder``, which is made 0700.

    The authority's own key is not kept, so that nothing else can ever be signed with it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _root(root_key)
    _write(made.root, root.public_bytes(serialization.Encoding.PEM))
    server = _server(root, root_key, key.public_key())
    _write(made.certificate, server.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write(made.key, key.private_bytes(encoding, form, plain))
    return made


def _root(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _named(_ROOT_NAME)
    builder = _builder(name, name, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(usage, critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())


def _server(
    root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePublicKey
) -> x509.Certificate:
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    builder = _builder(_named("127.0.0.1"), root.subject, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = builder.add_extension(usage, critical=True)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = builder.add_extension(purpose, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    return builder.add_extension(identifier, critical=False).sign(root_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now: datetime = SystemClock().now().astimezone(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + _LIFE)


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
