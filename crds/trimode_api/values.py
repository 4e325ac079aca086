"""What the spec's fields are made of: its models' base, and the scalar types, how each is written, checked and shown.

Every check says what is allowed, because its words reach the user. Amounts are Kubernetes quantities such as `500m`,
`1.5Gi` or `8`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from trimode_api.modes import BLOCK_LENGTHS
from trimode_api.wire import ORIGIN

Int = Annotated[
    int,
    Strict(),
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]
"""A whole number; `8.0` is one, as kubectl makes `8` of it. Text that looks like a number is refused."""

Bool = Annotated[bool, Strict()]
"""A switch as YAML writes it; text and numbers are refused."""


class SpecModel(BaseModel):
    """A part of the resource: frozen, camelCase, unknown fields refused, `null` the same as left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, data: Any) -> Any:
        """The API server drops nulls before it fills in defaults; unknown fields it refuses even so."""
        if not isinstance(data, dict):
            return data
        known = {field.alias for field in cls.model_fields.values()}
        return {key: value for key, value in data.items() if value is not None or key not in known}


GRAMMAR = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
"""Kubernetes' own, less what is below zero and exponents of three digits."""

MAX_LENGTH = 24

_PARTS = re.compile(r"\+?([0-9.]+)(.*)", re.ASCII)
_FACTORS = {suffix: Fraction(1000) ** power for power, suffix in enumerate(("n", "u", "m", "", *"kMGTPE"), start=-3)}
_FACTORS |= {f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}
_FINEST = 10**9


def amount(quantity: str) -> Fraction:
    """The value: '500m' is 1/2, '1Ki' is 1024. Finer than 1e-9 is rounded up, as Kubernetes does.

    Raises ValueError for what is no quantity.
    """
    if not re.fullmatch(GRAMMAR, quantity, re.ASCII) or (parts := _PARTS.fullmatch(quantity)) is None:
        raise ValueError(f"{quantity!r} is no quantity")
    number, suffix = parts.groups()
    value = Fraction(number) * _FACTORS[suffix] if suffix in _FACTORS else Fraction(number + suffix)
    return Fraction(math.ceil(value * _FINEST), _FINEST)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lowest and highest quantity of something, and how to write it."""

    lowest: str
    highest: str
    unit: str
    examples: str

    @property
    def allowed(self) -> str:
        """What to write, in words."""
        return f"{self.unit} from {self.lowest} to {self.highest}, such as {self.examples}"

    def text(self, value: Any) -> str:
        """`value`, a whole number or a quantity as text, as text. Raises ValueError that says what is allowed."""
        if isinstance(value, float) and value.is_integer():  # kubectl makes 8 of 8.0 before the server sees it
            value = int(value)
        if isinstance(value, float):
            raise ValueError(f"{value!r} is not allowed: a number with a fraction is written in quotes, '{value}'")
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        written = isinstance(text, str) and len(text) <= MAX_LENGTH and re.fullmatch(GRAMMAR, text, re.ASCII)
        if not written or not amount(self.lowest) <= amount(text) <= amount(self.highest):
            raise ValueError(f"{value!r} is not allowed; write {self.allowed}")
        return str(text)

    def schema(self) -> dict[str, Any]:
        """JSON schema with Kubernetes' extensions. A pattern cannot compare, and its refusal shows no words."""
        rule = (
            f"isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('{self.lowest}')) >= 0 && "
            f"quantity(string(self)).compareTo(quantity('{self.highest}')) <= 0"
        )
        return {
            "type": ["integer", "string"],
            "x-kubernetes-int-or-string": True,
            "pattern": GRAMMAR,
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": [{"rule": rule, "message": f"write {self.allowed}"}],
        }


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
