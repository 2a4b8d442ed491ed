"""TLS towards an NBD server: certificates verified, or no connection."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from sealift.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to know the server, and how it knows us.

    Attributes:
        ca_file: PEM with the authorities to trust; None trusts the system's.
        server_name: name that the certificate must have; None takes the host of the
            address, ``localhost`` for a Unix socket.
        cert_file: PEM with our certificate, for servers that verify clients.
        key_file: PEM with its key.
    """

    ca_file: Path | None = None
    server_name: str | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A verifying client context, TLS 1.2 or newer.

        Raises:
            ConfigError: a file is missing or not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"TLS certificates for NBD cannot be loaded: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context
