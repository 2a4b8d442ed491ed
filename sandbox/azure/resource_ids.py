"""Ids of resources, which Azure compares without regard to case."""

import re
from dataclasses import dataclass

from sandbox.azure.arm_errors import ArmError, invalid

_ID = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/([^/]+)/([^/]+)/([^/]+)"
    r"(?:/([^/]+)/([^/]+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ResourceId:
    """``/subscriptions/S/resourceGroups/G/providers/NAMESPACE/TYPE/NAME[/CHILD/NAME]``."""

    subscription: str
    group: str
    namespace: str
    kind: str
    name: str
    child_kind: str = ""
    child: str = ""

    def __str__(self) -> str:
        text = f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
        text += f"/providers/{self.namespace}/{self.kind}/{self.name}"
        return f"{text}/{self.child_kind}/{self.child}" if self.child else text

    @property
    def key(self) -> str:
        """Equal for equal resources."""
        return str(self).lower()

    @property
    def type_name(self) -> str:
        """``NAMESPACE/TYPE[/CHILD]``."""
        return "/".join(x for x in (self.namespace, self.kind, self.child_kind) if x)

    @property
    def last_name(self) -> str:
        """The resource's own name."""
        return self.child or self.name


def parse_id(text: object, type_name: str, target: str) -> ResourceId:
    """Read an id that a request names.

    Raises:
        ArmError: 400 LinkedInvalidPropertyId, not an id of this type ("Common deployment
            errors").
    """
    match = _ID.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        message = f"Property id '{text}' at path '{target}' is invalid."
        raise ArmError(400, "LinkedInvalidPropertyId", message)
    found = ResourceId(*(part or "" for part in match.groups()))
    if found.type_name.lower() != type_name.lower():
        raise invalid(f"'{text}' is not the id of a resource of type {type_name}.", target)
    return found
