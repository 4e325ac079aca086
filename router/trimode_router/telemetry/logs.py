"""Structured logs: one JSON object a line on stderr.

Belongs here: the configuration of structlog, called once by `__main__`.
"""

from __future__ import annotations

import sys

import msgspec
import structlog


def configure() -> None:
    """Log from level info on, in UTC, straight to stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda value, **_: msgspec.json.encode(value)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
