"""What goes wrong in the harness itself.

    HarnessError
    +-- Missing      something that this machine would need is not there; names it and how to get it
    +-- Broken       something that was started or run failed; carries the end of its log

Belongs here: error values. A test skips loudly on `Missing` and fails on `Broken`.
"""

from __future__ import annotations


class HarnessError(Exception):
    """The harness cannot go on."""


class Missing(HarnessError):
    """This machine lacks something; the text says what, and how to get it."""


class Broken(HarnessError):
    """A program failed; the text says which, and how its log ends."""
