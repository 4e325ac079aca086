"""Structured logs: one JSON object a line on stderr, kopf's included.

Belongs here: the configuration of structlog and of the standard library's logging, called once by `main`.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure() -> None:
    """Log from level info on, in UTC; of kopf and the HTTP clients from warning on."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(lambda record: "Unresolved resources" not in record.getMessage())  # optional APIs, see discovery
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
