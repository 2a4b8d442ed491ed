"""The sandbox's key vault keeps the rules of the service; each names the page that has it."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys import KeyOperation
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.azure.vaults import KeyPlace, key_servers, place

__all__ = ["key_servers", "place"]

pytestmark = pytest.mark.sandbox
SECRET = b"thirty-two bytes of a slot's key"
VALUE = urlsafe_b64encode(SECRET).rstrip(b"=").decode()


def ask(
    place: KeyPlace,
    method: str,
    path: str,
    body: Any = None,
    *,
    version: str | None = "7.4",
    audience: str | None = "",
) -> requests.Response:
    """A request as anybody may send it; ``audience`` of the token, None for no token."""
    headers: dict[str, str] = {}
    if audience is not None:
        token, _ = place.issuer.issue(audience or place.vault.audience)
        headers["Authorization"] = f"Bearer {token}"
    query: Mapping[str, str] = {} if version is None else {"api-version": version}
    address = place.vault.url + path
    return requests.request(method, address, params=query, json=body, headers=headers, timeout=60)


def code(answer: requests.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error.get("innererror", {}).get("code", "")


def current(place: KeyPlace, name: str = "backup") -> str:
    return str(place.owner.get_key(name).id).removeprefix(place.vault.url)


def test_a_request_without_a_token_is_challenged(place: KeyPlace) -> None:
    """ "Authentication, requests and responses": 401, with authority and resource."""
    answer = ask(place, "GET", "/keys/backup/", audience=None)
    assert answer.status_code == 401
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer authorization="https://login.microsoftonline.com/')
    assert f'resource="{place.vault.audience}"' in challenge


def test_a_token_for_another_service_is_refused(place: KeyPlace) -> None:
    """ "Azure Key Vault REST API error codes", 401: wrong audience."""
    answer = ask(place, "GET", "/keys/backup/", audience="https://management.azure.com")
    assert code(answer)[:2] == (401, "Unauthorized")


@pytest.mark.parametrize("version", [None, "6.9", "latest"])
def test_the_version_of_the_interface_is_checked(place: KeyPlace, version: str | None) -> None:
    """ "Authentication, requests and responses": api-version is needed in every request."""
    assert code(ask(place, "GET", "/keys/backup/", version=version))[:2] == (400, "BadParameter")


def test_what_is_wrapped_is_rsa_oaep_with_sha_256(place: KeyPlace) -> None:
    """ "About keys": RSA-OAEP-256 is RFC 8017's, MGF1 with SHA-256, no label."""
    key: Any = place.owner.get_key("backup").key
    numbers = rsa.RSAPublicNumbers(int.from_bytes(key.e, "big"), int.from_bytes(key.n, "big"))
    scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    wrapped = numbers.public_key().encrypt(SECRET, scheme)
    body = {"alg": "RSA-OAEP-256", "value": urlsafe_b64encode(wrapped).rstrip(b"=").decode()}
    answer = ask(place, "POST", f"{current(place)}/unwrapkey", body)
    assert answer.status_code == 200
    assert answer.json() == {"kid": place.vault.url + current(place), "value": VALUE}


@pytest.mark.parametrize(
    "body",
    [
        {"alg": "RSA-OAEP-512", "value": VALUE},
        {"alg": "A256KW", "value": VALUE},
        {"value": VALUE},
        {"alg": "RSA-OAEP-256"},
        {"alg": "RSA-OAEP-256", "value": "+/=="},
        {"alg": "RSA-OAEP-256", "value": "A" * 400},
    ],
)
def test_bad_parameters_are_refused(place: KeyPlace, body: dict[str, str]) -> None:
    """ "Wrap Key": algorithm and base64url value; at most what the key takes."""
    answer = ask(place, "POST", f"{current(place)}/wrapkey", body)
    assert code(answer)[:2] == (400, "BadParameter")


def test_what_this_key_did_not_wrap_is_a_bad_parameter(place: KeyPlace) -> None:
    """ "Unwrap Key"; the error codes' page: 400 for what the operation cannot take."""
    body = {"alg": "RSA-OAEP-256", "value": "A" * 342}
    assert code(ask(place, "POST", f"{current(place)}/unwrapkey", body))[:2] == (
        400,
        "BadParameter",
    )


def test_a_key_without_its_version_is_the_newest(place: KeyPlace) -> None:
    """ "Get Key": the version is optional; "Rotate Key" makes a new one."""
    before = current(place)
    place.owner.rotate_key("backup")
    assert ask(place, "GET", "/keys/backup").json()["key"]["kid"].endswith(current(place))
    assert ask(place, "GET", before).json()["key"]["kid"].endswith(before)
    assert current(place) != before


@pytest.mark.parametrize("path", ["/keys/nothing/", "/keys/backup/0123456789abcdef"])
def test_what_is_not_there_is_not_found(place: KeyPlace, path: str) -> None:
    """Error codes' page: 404, of keys and of versions."""
    assert code(ask(place, "GET", path))[:2] == (404, "KeyNotFound")


def test_a_disabled_key_wraps_and_does_not_unwrap(place: KeyPlace) -> None:
    """Measured at the service: Azure SDK for Python issue 45342."""
    path, body = current(place), {"alg": "RSA-OAEP-256", "value": VALUE}
    wrapped = ask(place, "POST", f"{path}/wrapkey", body).json()["value"]
    place.owner.update_key_properties("backup", enabled=False)
    assert ask(place, "POST", f"{path}/wrapkey", body).status_code == 200
    answer = ask(place, "POST", f"{path}/unwrapkey", {**body, "value": wrapped})
    assert code(answer) == (403, "Forbidden", "KeyDisabled")


def test_an_expired_key_unwraps_and_does_not_wrap(place: KeyPlace) -> None:
    """ "About keys", date-time controlled operations."""
    path, body = current(place), {"alg": "RSA-OAEP-256", "value": VALUE}
    wrapped = ask(place, "POST", f"{path}/wrapkey", body).json()["value"]
    past = place.clock.now() - timedelta(hours=1)
    place.owner.update_key_properties("backup", expires_on=past)
    assert code(ask(place, "POST", f"{path}/wrapkey", body))[:2] == (403, "Forbidden")
    answer = ask(place, "POST", f"{path}/unwrapkey", {**body, "value": wrapped})
    assert answer.json()["value"] == VALUE


def test_a_key_does_only_what_its_operations_allow(place: KeyPlace) -> None:
    """ "About keys": key_ops."""
    allowed: list[str | KeyOperation] = [KeyOperation.sign]
    place.owner.create_rsa_key("signer", size=2048, key_operations=allowed)
    body = {"alg": "RSA-OAEP-256", "value": VALUE}
    answer = ask(place, "POST", f"{current(place, 'signer')}/wrapkey", body)
    assert code(answer)[:2] == (403, "Forbidden")


def test_a_deleted_key_keeps_its_name_until_it_is_purged(place: KeyPlace) -> None:
    """ "Azure Key Vault recovery management with soft delete"."""
    place.owner.begin_delete_key("backup").wait()
    assert code(ask(place, "GET", "/keys/backup/"))[:2] == (404, "KeyNotFound")
    with pytest.raises(HttpResponseError, match="deleted but recoverable"):
        place.owner.create_rsa_key("backup", size=2048)
    place.owner.purge_deleted_key("backup")
    place.owner.create_rsa_key("backup", size=2048)


def test_a_role_without_an_action_is_refused_by_name(place: KeyPlace) -> None:
    """Error codes' page, 403: which kind of permission is missing."""
    place.vault.forbidden = {"get"}
    answer = ask(place, "GET", "/keys/backup/")
    assert code(answer) == (403, "Forbidden", "ForbiddenByRbac")


def test_too_many_requests_are_throttled(place: KeyPlace) -> None:
    """ "Azure Key Vault throttling guidance": 429."""
    place.vault.throttled = 1
    answer = ask(place, "GET", "/keys/backup/")
    assert code(answer)[:2] == (429, "Throttled")
    assert ask(place, "GET", "/keys/backup/").status_code == 200


def test_methods_are_checked(place: KeyPlace) -> None:
    """The REST reference: wrapping is a POST."""
    assert ask(place, "GET", f"{current(place)}/wrapkey").status_code == 405
