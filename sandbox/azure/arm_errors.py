"""What Resource Manager answers when it refuses a call.

Codes come from "Common Azure deployment errors", "Common Resource Manager errors" and the
pages named where they are raised. Where Microsoft documents no code for a refusal,
docs/sandbox-azure.md says that the choice is ours.
"""


class ArmError(Exception):
    """A refusal that reaches the client; the call had no effect.

    Args:
        status: HTTP status.
        code: what the SDK shows as ``error.code``.
        message: text for people.
        target: the property that is wrong.
        retry_after_seconds: sent as ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.retry_after_seconds = retry_after_seconds

    def document(self) -> dict[str, object]:
        """The error as it stands in replies and in the status of operations."""
        shown: dict[str, object] = {"code": self.code, "message": self.message}
        if self.target is not None:
            shown["target"] = self.target
        return shown


def invalid(message: str, target: str | None = None) -> ArmError:
    """400 InvalidParameter: a property has a value that does not do."""
    return ArmError(400, "InvalidParameter", message, target=target)


def required(name: str) -> ArmError:
    """400 InvalidParameter: a property is missing."""
    return invalid(f"Required parameter '{name}' is missing (null).", name)


def not_allowed(message: str) -> ArmError:
    """409 OperationNotAllowed: the resource's state does not let it happen."""
    return ArmError(409, "OperationNotAllowed", message)


def unchangeable(name: str) -> ArmError:
    """409 PropertyChangeNotAllowed: the resource exists and was made otherwise."""
    message = f"Changing property '{name}' is not allowed."
    return ArmError(409, "PropertyChangeNotAllowed", message, target=name)


def resource_not_found(kind: str, name: str, group: str) -> ArmError:
    """404 ResourceNotFound, "Resolve resource not found errors"."""
    message = f"The Resource '{kind}/{name}' under resource group '{group}' was not found."
    return ArmError(404, "ResourceNotFound", message)


def referenced_not_found(resource_id: str) -> ArmError:
    """404 NotFound: something that the request names does not exist."""
    return ArmError(404, "NotFound", f"Resource {resource_id} not found.")
