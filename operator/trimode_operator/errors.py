"""What goes wrong at the operator's edges.

    TrimodeError
    +-- OperatorError
        +-- ApiFailure        the API server refused a request
        +-- ApiUnreachable    it did not answer
        +-- NameTaken         an object of that name exists and is not ours
        +-- KubeRayTooOld     the installed KubeRay lacks what we need
        +-- NotMade           some children could not be made
        +-- RouterFailure     a router refused, or did not answer
        +-- BadStart          the process cannot start: arguments, settings, credentials

Errors that only one edge raises are beside it (`kube.lease.NotLeading`).
"""

from __future__ import annotations

from collections.abc import Sequence

from trimode_api.errors import TrimodeError


class OperatorError(TrimodeError):
    """Root of the operator's errors. `reason` is one CamelCase word: metric label and condition reason."""

    reason = "OperatorError"


FIELD_UNKNOWN = "FieldUnknown"
"""Our word where the API server does not know a field of what we apply: it answers 500 without a reason of its own."""


class ApiFailure(OperatorError):
    """The API server's refusal; `reason` as its Status has it, such as Forbidden or Invalid."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or (FIELD_UNKNOWN if "field not declared in schema" in message else f"Http{status}")


class ApiUnreachable(OperatorError):
    """No answer from the API server."""

    reason = "ApiUnreachable"


class NameTaken(OperatorError):
    """An object that we would make exists already and is not ours."""

    reason = "NameTaken"


class KubeRayTooOld(OperatorError):
    """The installed KubeRay lacks what a fleet needs, so nothing is touched."""

    reason = "KubeRayTooOld"


class NotMade(OperatorError):
    """Some children could not be made; the others were. `reason` is the first failure's."""

    def __init__(self, failures: Sequence[ApiFailure | NameTaken]) -> None:
        super().__init__("\n".join(map(str, failures)))
        self.reason = failures[0].reason


class RouterFailure(OperatorError):
    """A router refused (`status` is HTTP's) or did not answer (`status` 0)."""

    reason = "RouterFailure"

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class BadStart(OperatorError):
    """The operator cannot start; the message says what to change."""

    reason = "BadStart"


def reason_of(error: BaseException) -> str:
    """The metric label of any error that ends a reconciliation."""
    if isinstance(error, OperatorError):
        return error.reason
    return "Timeout" if isinstance(error, TimeoutError) else type(error).__name__
