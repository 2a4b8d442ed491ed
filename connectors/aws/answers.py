"""Answers of AWS are what the service's model says, before anything is read out of them.

The SDK checks what it sends and believes what it receives: a JSON number may arrive as a
text, a list as null, an index as infinity. One check of the whole answer here means that
no code behind it has to ask.
"""

from collections.abc import Mapping
from typing import Any

from botocore.validate import ParamValidator

from sealift.errors import TransientError


def refuse_untyped(
    *, http_response: Any, parsed: Mapping[str, Any], model: Any, **_: object
) -> None:
    """Take a success status only around values of the types that the model names.

    Raises:
        TransientError: the body holds something else, as a proxy's or a service's under
            load may; unknown whether the call took effect.
    """
    if http_response.status_code >= 300 or model.output_shape is None:
        return
    answer = {name: value for name, value in parsed.items() if name != "ResponseMetadata"}
    report = ParamValidator().validate(answer, model.output_shape)
    if report.has_errors():
        service = model.service_model.endpoint_prefix
        raise TransientError(f"{service}:{model.name}: the answer is not of the documented form")
