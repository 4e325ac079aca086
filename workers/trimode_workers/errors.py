"""What the engine raises.

EngineError
+-- RequestRefused     a request that can never run here: the caller answers the client
+-- SettingsError      settings that contradict one another: the engine does not start
+-- InvariantBroken    a bug in the engine, found by the checker that tests switch on
"""

from __future__ import annotations


class SourceError(Exception):
    """The model cannot be had from its URI; the message names it, says why, and what to do."""


class GrammarError(Exception):
    """The message is fit for a client: it says what of the schema is wrong, not where in a request it was."""


class TextError(Exception):
    """Root; the message is one line for the user."""


class TokenizerError(TextError):
    """Names the file and what is wrong with it."""


class TemplateError(TextError):
    """The template's own words."""


class ModelError(Exception):
    """A model folder cannot be used; the message says why and is fit to be shown to a user."""


class ConfigError(ModelError):
    """config.json is missing, malformed, or describes another kind of model."""


class WeightsError(ModelError):
    """The safetensors files are missing, damaged, or disagree with config.json."""


class AdapterError(ModelError):
    """The draft adapter is missing, malformed, made for another model, or without effect."""


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
