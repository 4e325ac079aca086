"""What trimode says when something is wrong: problems with a path, and OpenAI-shaped error bodies.

    TrimodeError
    +-- InvalidInput       problems found in a resource or a request, all of them at once
    +-- ApiError           an HTTP answer that is an error, in OpenAI's shape

Belongs here: error values that more than one part speaks. Errors of one part live in that part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

MOST_SHOWN = 120
"""Characters of an input that a message repeats: an image in a request came back whole, 1.3 MB of it, in the error."""
MOST_SAID = 1000
"""Characters of an error's message altogether."""


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """`value` as a message shows it, never longer than about `most` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists thousands deep
        return f"a {type(value).__name__} too large to show"
    return clipped(text, most)


def clipped(text: str, most: int) -> str:
    """The beginning of `text`, and how much more there was."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


class TrimodeError(Exception):
    """Root of all errors that trimode raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: where (`spec.pools[0].replicas.max`), and what is allowed instead."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidInput(TrimodeError):
    """A resource or request with problems; `str()` lists every one, a line each."""

    def __init__(self, problems: Sequence[Problem], what: str = "input") -> None:
        self.problems = tuple(problems)
        self.what = what
        count = len(self.problems)
        head = f"{what} has {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class ApiError(TrimodeError):
    """An error answer over HTTP. `retry_after_s` (whole seconds) becomes the Retry-After header. Message and `param`
    are cut where they are too long for an answer: both may repeat what a client sent."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        self.message = clipped(message, MOST_SAID)
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.param = None if param is None else clipped(param, MOST_SHOWN)
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON body in OpenAI's shape."""
        return error_body(self.status, self.message, code=self.code, param=self.param)


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object for an HTTP status; `type` follows from the status alone."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def problems_of(
    error: ValidationError, root: str = "", *, secret: bool = False, unsupported: Mapping[str, str] | None = None
) -> tuple[Problem, ...]:
    """pydantic's findings as problems with Kubernetes-like paths, in the order of the input; values of `secret` input
    are not quoted. `unsupported`: what to say of fields that are known, by their paths, but not in the model."""
    findings: list[Any] = [{**finding, **({"input": None} if secret else {})} for finding in error.errors()]
    problems = []
    for finding in findings:
        place, depth = finding["loc"], len(finding["loc"])
        inside = (each for each in findings if each["loc"][:depth] == place and len(each["loc"]) > depth)
        # A "too short" beside a problem of an item only repeats it.
        if finding["type"] != "too_short" or not any(inside):
            problems.append(_problem(finding, root, unsupported or {}))
    return tuple(problems)


def _problem(finding: Any, root: str, unsupported: Mapping[str, str]) -> Problem:
    path = root
    for part in finding["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    path, kind = clipped(path, MOST_SHOWN), finding["type"]
    if kind == "extra_forbidden" and path in unsupported:
        return Problem(path, f"{unsupported[path]}, got {shown(finding['input'])}")
    if kind == "extra_forbidden":
        return Problem(path, "unknown field; check its spelling and its place")
    if kind == "missing":
        return Problem(path, "is required")
    if kind == "value_error":
        return Problem(path, str(finding["ctx"]["error"]))
    if kind == "rule":
        has_value = str(finding["input"]) in finding["msg"]
        return Problem(path, finding["msg"] if has_value else _with_value(finding["msg"], finding["input"]))
    # pydantic speaks of Python's types, which are no words of a file or a request in JSON.
    words = (
        (finding["msg"][:1].lower() + finding["msg"][1:])
        .replace(" after validation", "")
        .replace("tuple", "list")
        .replace("dictionary or instance of", "mapping for")
    )
    return Problem(path, _with_value(words, finding["input"]))


def _with_value(message: str, value: Any) -> str:
    """The message with the value that broke it, where the value is short enough to read."""
    text = shown(value)
    return message if value is None or len(text) > 60 else f"{message}, got {text}"
