"""A key of AWS KMS as the secret of a key slot.

KMS never gives the key out; it wraps and unwraps 32 random bytes of the slot, bound to the
ids of repository and slot by the encryption context, which CloudTrail records in clear.
"""

from collections.abc import Callable, Mapping
from typing import Any

from connectors.aws.errors import aws_call, code_of, field_of
from connectors.aws.session import AwsClients
from sealift.errors import SlotDamagedError, TargetError, WrongSecretError

ACTIONS = ("kms:Decrypt", "kms:Encrypt")
"""What an IAM or key policy has to allow for key slots, and nothing else. Who only opens needs
Decrypt alone; making a slot needs both, because a new slot is opened once."""

_UNUSABLE = {
    "DisabledException": "enable the key, or open the repository with another slot",
    "KMSInvalidStateException": "if the key waits for deletion, cancel that now: "
    "`aws kms cancel-key-deletion`; or open the repository with another slot",
    "InvalidKeyUsageException": "the slot needs a symmetric key for encryption",
    "NotFoundException": "see whether key, region and account are right, "
    "or open the repository with another slot",
}


class KmsWrapper:
    """Wraps under one symmetric key, and unwraps with that key alone.

    The key is the one that the caller names, never one that a slot names: whoever may write
    slots could otherwise have us ask a key of theirs.

    Args:
        clients: of the account and region of the key.
        key_id: id, ARN or alias of the key.
    """

    provider = "aws-kms"

    def __init__(self, clients: AwsClients, key_id: str) -> None:
        self._clients = clients
        self.key_id = key_id

    def __repr__(self) -> str:
        return f"KmsWrapper({self.key_id})"

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        """``kms:Encrypt`` of up to 4096 bytes.

        Raises:
            TargetDeniedError, CredentialsError, TransientError: as classified.
            TargetError: no such key, or it cannot be used now.
        """
        answer = self._call(
            "kms:Encrypt",
            lambda: self._clients.kms.encrypt(
                KeyId=self.key_id, Plaintext=secret, EncryptionContext=dict(context)
            ),
        )
        return bytes(field_of(answer, "CiphertextBlob", "kms:Encrypt"))

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """``kms:Decrypt`` with this key.

        Raises:
            SlotDamagedError: not what KMS made, or made for another repository or slot.
            WrongSecretError: another key wrapped it.
            TargetDeniedError, CredentialsError, TransientError: as classified.
            TargetError: no such key, or it cannot be used now.
        """
        answer = self._call(
            "kms:Decrypt",
            lambda: self._clients.kms.decrypt(
                KeyId=self.key_id, CiphertextBlob=wrapped, EncryptionContext=dict(context)
            ),
        )
        return bytes(field_of(answer, "Plaintext", "kms:Decrypt"))

    def _call(self, action: str, call: Callable[[], Any]) -> Mapping[str, Any]:
        try:
            with aws_call(action):
                answer: Mapping[str, Any] = call()
                return answer
        except TargetError as error:
            code = code_of(error)
            if code == "InvalidCiphertextException":
                raise SlotDamagedError(
                    f"{action}: KMS did not make this, or not for this slot of this repository",
                    next_step="open the repository with another slot, then renew this one",
                ) from None
            if code == "IncorrectKeyException":
                raise WrongSecretError(
                    f"{action}: another key than {self.key_id} wrapped this slot",
                    next_step="name the key that the list of slots shows",
                ) from None
            if code in _UNUSABLE:
                raise type(error)(
                    error.message, next_step=_UNUSABLE[code], **error.operands
                ) from None
            raise
