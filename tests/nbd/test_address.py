from pathlib import Path

import pytest

from connectors.nbd import NbdUri, TcpAddress, UnixAddress, parse_uri
from connectors.nbd.address import check_export_name
from sealift.errors import UsageError

SOCKET = UnixAddress(Path("/run/x/nbd.sock"))


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("nbd://host", NbdUri(TcpAddress("host"), "", tls=False)),
        ("nbd://host/", NbdUri(TcpAddress("host"), "", tls=False)),
        ("nbd://host:1234/disk0", NbdUri(TcpAddress("host", 1234), "disk0", tls=False)),
        ("nbds://host/a%20b", NbdUri(TcpAddress("host"), "a b", tls=True)),
        ("nbd://[::1]:10810//x", NbdUri(TcpAddress("::1", 10810), "/x", tls=False)),
        ("nbd:///x", NbdUri(TcpAddress("localhost"), "x", tls=False)),
        ("nbd+unix:///d?socket=/run/x/nbd.sock", NbdUri(SOCKET, "d", tls=False)),
        ("nbds+unix:///?socket=%2Frun/x/nbd.sock", NbdUri(SOCKET, "", tls=True)),
    ],
)
def test_uris(uri: str, parsed: NbdUri) -> None:
    assert parse_uri(uri) == parsed


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://host/x",
        "nbd+vsock://2/x",
        "nbd://user@host/x",
        "nbd://host/x#y",
        "nbd://host:99999/x",
        "nbd://host:port/x",
        "nbd://host/x?tls-certificates=/etc",
        "nbd+unix:///x",
        "nbd+unix:///x?socket=",
        "nbd+unix:///x?socket=/a&socket=/b",
        "nbd+unix:///x?socket=/a&tls-hostname=b",
        "nbd+unix://host/x?socket=/a",
        "nbd://host/" + "x" * 4097,
        "nbd://host/a%00b",
        "nbd://[::1/x",
    ],
)
def test_what_is_not_understood_is_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        parse_uri(uri)


def test_the_longest_name_counts_bytes() -> None:
    assert check_export_name("é" * 2048)
    with pytest.raises(UsageError):
        check_export_name("é" * 2048 + "x")
    with pytest.raises(UsageError):
        check_export_name("\udc80")


def test_addresses_for_people() -> None:
    assert str(TcpAddress("::1", 7)) == "[::1]:7"
    assert str(SOCKET) == "unix:/run/x/nbd.sock"
