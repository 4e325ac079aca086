"""Scalar types of the resource: how each is written, checked and shown in the schema.

Every check says what is allowed, because its words reach the user.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from trimode_api.fields import Int
from trimode_api.modes import BLOCK_LENGTHS
from trimode_api.quantities import Bounds, amount
from trimode_api.wire import ORIGIN

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
RESOURCE_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
THRESHOLD = r"^(0\.0{0,3}[1-9][0-9]{0,3}|1(\.0{1,4})?)$"
PRICE = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,4})?$"
IMAGE = (
    r"([a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?/)?[a-z0-9]+([._/-][a-z0-9]+)*"
    r"(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
MODEL_URI = rf"^(hf://[\w.-]+/[\w.-]+|file://.+|pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])?/.+|oci://{IMAGE}|tiny://)$"


def _pattern(pattern: str, allowed: str, maximum: int = 63) -> AfterValidator:
    compiled = re.compile(pattern, re.ASCII)  # the API server's \w, \d are ASCII

    def check(value: str) -> str:
        if len(value) > maximum or not compiled.fullmatch(value):
            raise ValueError(f"{value!r} is not allowed; write {allowed}")
        return value

    return AfterValidator(check)


def _letter_first(value: str) -> str:
    if value[0].isdigit():
        raise ValueError("must start with a letter, as names of Services do")
    return value


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

ResourceName = Annotated[Name, AfterValidator(_letter_first), _text_schema(RESOURCE_NAME, 63)]
"""A DNS label that starts with a letter: all that is made for the resource is named after it, and KubeRay refuses a
RayService whose name is no RFC 1035 label."""

SecretName = Annotated[
    str,
    _pattern(DNS_SUBDOMAIN, "a Secret's name: lower-case letters, digits, '-' and '.', 253 at most", 253),
    _text_schema(DNS_SUBDOMAIN, 253),
]
"""A DNS subdomain, as Kubernetes wants names of Secrets."""

ObjectName = Annotated[
    str,
    _pattern(DNS_SUBDOMAIN, "an object's name: lower-case letters, digits, '-' and '.', 253 at most", 253),
    _text_schema(DNS_SUBDOMAIN, 253),
]
"""A DNS subdomain, as Kubernetes wants names of most objects."""

CPU = Bounds("10m", "2048", "cores", "8, '0.5' or 500m")
MEMORY = Bounds("64Mi", "64Ti", "bytes", "64Gi, 1.5Gi or 500M")

Cpu = Annotated[str, BeforeValidator(CPU.text), WithJsonSchema(CPU.schema())]
"""Cores, as a Kubernetes quantity or a whole number."""

Memory = Annotated[str, BeforeValidator(MEMORY.text), WithJsonSchema(MEMORY.schema())]
"""Bytes, as a Kubernetes quantity or a whole number: Gi is 1024**3, G is 1000**3."""

Threshold = Annotated[
    str,
    _pattern(THRESHOLD, "a probability in (0, 1] as text with at most four decimals, such as '0.9'", 8),
    _text_schema(THRESHOLD, 8),
]
"""A probability as text: Kubernetes resources hold no floats."""

Origin = Annotated[str, _pattern(ORIGIN, "SCHEME://HOST:PORT without a path, or *", 256), _text_schema(ORIGIN, 256)]
"""Where a web page is from, as browsers send it."""

Price = Annotated[
    str,
    _pattern(PRICE, "a price as text with at most four decimals, such as '2.5'", 16),
    _text_schema(PRICE, 16),
]
"""An amount of money as text, in any one currency."""

Argument = Annotated[str, StringConstraints(max_length=1024)]
"""One argument of a command line."""

ModelUri = Annotated[
    str,
    _pattern(MODEL_URI, "hf://OWNER/NAME, file:///PATH, pvc://CLAIM/PATH, oci://IMAGE or tiny://", 512),
    _text_schema(MODEL_URI, 512),
]
"""Where weights come from. `tiny://` is the packaged model."""

BlockLength = Annotated[
    Int,
    AfterValidator(_block_length),
    WithJsonSchema({"type": "integer", "enum": list(BLOCK_LENGTHS)}),
]
"""Tokens of a block: a power of two from 4 to 64."""

Count = Annotated[Int, Field(ge=1, le=1024), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 1024})]
"""Replicas that others ask for."""


def cores(quantity: str) -> float:
    """Cores of a `Cpu` quantity: '500m' is 0.5."""
    return float(amount(quantity))


def size_bytes(quantity: str) -> int:
    """Bytes of a `Memory` quantity, rounded up: '1Ki' is 1024."""
    return math.ceil(amount(quantity))
