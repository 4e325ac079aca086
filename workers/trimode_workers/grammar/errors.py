"""What can be wrong with a grammar.

GrammarError    a schema that cannot be followed, or a tokenizer for which none can; one line for a person
"""

from __future__ import annotations


class GrammarError(Exception):
    """The message is fit for a client: it says what of the schema is wrong, not where in a request it was."""
