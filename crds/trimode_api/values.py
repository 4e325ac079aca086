"""Scalar types of the resource: how each is written, checked and shown in the schema.

Belongs here: annotated types of one value each. Every check says what is allowed, because its words reach the user.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Strict, WithJsonSchema

from trimode_api.modes import BLOCK_LENGTHS

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
CPU = r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$"
MEMORY = r"^[1-9][0-9]*(Ki|Mi|Gi|Ti)?$"
THRESHOLD = r"^(0\.0{0,3}[1-9][0-9]{0,3}|1(\.0{1,4})?)$"
MODEL_URI = r"^(hf://[\w.-]+/[\w.-]+|file://.+|pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])?/.+|tiny://)$"


def _pattern(pattern: str, allowed: str, maximum: int = 63) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if len(value) > maximum or not compiled.fullmatch(value):
            raise ValueError(f"{value!r} is not allowed; write {allowed}")
        return value

    return AfterValidator(check)


def _block_length(value: int) -> int:
    if value not in BLOCK_LENGTHS:
        raise ValueError(f"{value} is not allowed; write one of {', '.join(map(str, BLOCK_LENGTHS))}")
    return value


def _text_schema(pattern: str, maximum: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "maxLength": maximum})


Name = Annotated[
    str,
    _pattern(
        DNS_LABEL,
        "lower-case letters, digits and '-', 63 at most, starting and ending with one of the first two",
    ),
    _text_schema(DNS_LABEL, 63),
]
"""A DNS label, as Kubernetes wants names."""

SecretName = Annotated[
    str,
    _pattern(DNS_SUBDOMAIN, "a Secret's name: lower-case letters, digits, '-' and '.', 253 at most", 253),
    _text_schema(DNS_SUBDOMAIN, 253),
]
"""A DNS subdomain, as Kubernetes wants names of Secrets."""

Cpu = Annotated[
    str,
    BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v),
    _pattern(CPU, "cores as '8', '0.5' or '500m'", 16),
    _text_schema(CPU, 16),
]
"""A Kubernetes quantity of cores."""

Memory = Annotated[str, _pattern(MEMORY, "bytes with Ki, Mi, Gi or Ti, such as '64Gi'", 24), _text_schema(MEMORY, 24)]
"""A Kubernetes quantity of bytes, binary units only: 64GB and 64G are refused, since they are easily confused."""

Threshold = Annotated[
    str,
    _pattern(THRESHOLD, "a probability in (0, 1] as text with at most four decimals, such as '0.9'", 8),
    _text_schema(THRESHOLD, 8),
]
"""A probability as text: Kubernetes resources hold no floats."""

ModelUri = Annotated[
    str,
    _pattern(MODEL_URI, "hf://OWNER/NAME, file:///PATH, pvc://CLAIM/PATH or tiny://", 512),
    _text_schema(MODEL_URI, 512),
]
"""Where weights come from. `tiny://` is the packaged model."""

BlockLength = Annotated[
    int,
    Strict(),
    AfterValidator(_block_length),
    WithJsonSchema({"type": "integer", "enum": list(BLOCK_LENGTHS)}),
]
"""Tokens of a block: a power of two from 4 to 64."""


def cores(quantity: str) -> float:
    """Cores of a `Cpu` quantity: '500m' is 0.5."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def size_bytes(quantity: str) -> int:
    """Bytes of a `Memory` quantity: '1Ki' is 1024."""
    for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1):
        if quantity.endswith(unit):
            return int(quantity[:-2]) * int(1024**power)
    return int(quantity)
