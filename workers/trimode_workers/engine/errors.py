"""What the engine raises.

EngineError
+-- RequestRefused     a request that can never run here: the caller answers the client
+-- SettingsError      settings that contradict one another: the engine does not start
+-- InvariantBroken    a bug in the engine, found by the checker that tests switch on
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of the engine's errors."""


class RequestRefused(EngineError):
    """`code` is stable and short, `field` names what to change (None: nothing the client sent is wrong)."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.field = code, message, field


class SettingsError(EngineError):
    """One line naming field, value and what is allowed."""


class InvariantBroken(EngineError):
    """One line naming the sequence and what does not hold."""
