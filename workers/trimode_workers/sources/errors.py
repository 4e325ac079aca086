"""What can be wrong with a model's source."""


class SourceError(Exception):
    """The model cannot be had from its URI; the message names it, says why, and what to do."""
