"""Values that are made for every request.

Belongs here: how such a class is declared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A frozen dataclass with slots, as far as the type checker goes. At run time nothing watches assignments: the
    watched `__init__` takes three times as long, which a router's hot path would notice."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
