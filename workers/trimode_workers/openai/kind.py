"""The two endpoints that answer. Belongs here: telling them apart."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Which endpoint answers: the prefix of its ids."""

    CHAT = "chatcmpl"
    TEXT = "cmpl"
