"""Arguments of an SGLang server that follow from the resource."""

from __future__ import annotations

from collections.abc import Sequence

RESERVED = (
    "--model-path",
    "--model",
    "--tokenizer-path",
    "--served-model-name",
    "--host",
    "--port",
    "--context-length",
    "--max-running-requests",
    "--json-model-override-args",
    "--dllm-algorithm",
    "--dllm-algorithm-config",
    "--enable-metrics",
    "--dtype",
    "--config",
)
"""Written a second time they would contradict the resource."""


def reserved(args: Sequence[str]) -> list[str]:
    """Those of `args` that are not the user's to set."""
    return [arg for arg in args if arg.split("=", 1)[0] in RESERVED]
