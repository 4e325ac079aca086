"""Kubernetes quantities: amounts such as `500m`, `1.5Gi` or `8`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

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
