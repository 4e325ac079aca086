"""Request bytes to a valid request, or to one OpenAI-shaped error that names every problem. Pure."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from trimode_api.errors import ApiError, problems_of
from trimode_api.openai import GenerationRequest
from trimode_api.openai_neutral import unsupported

R = TypeVar("R", bound=GenerationRequest)

_UNSUPPORTED = unsupported()


def parse(kind: type[R], body: bytes) -> R:
    """The request in `body`. ApiError 400; `param` is the first field that is wrong, the message lists all."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        if first["type"] == "json_invalid":
            message = f"the body is not valid JSON: {first['ctx']['error']}"
            raise ApiError(400, message, code="invalid_json") from exc
        problems = problems_of(exc, unsupported=_UNSUPPORTED)
        message = "; ".join(str(problem) for problem in problems)
        if first["type"] == "model_type":
            message = "the body must be a JSON object"
        raise ApiError(400, message, code="invalid_value", param=problems[0].path or None) from exc
