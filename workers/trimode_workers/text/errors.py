"""What can be wrong with a model's text side.

TextError
+-- TokenizerError    tokenizer files are missing or unreadable: the replica does not start
+-- TemplateError     the chat template refuses these messages: the client is told
"""

from __future__ import annotations


class TextError(Exception):
    """Root; the message is one line for a person."""


class TokenizerError(TextError):
    """Names the file and what is wrong with it."""


class TemplateError(TextError):
    """The template's own words."""
