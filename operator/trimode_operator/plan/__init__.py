"""From a resource to everything the operator makes of it. Pure: no I/O, no clock, no randomness.

`make_plan`, and a module for each group of children.
"""

from trimode_operator.plan.make import make_plan
from trimode_operator.plan.model import Capabilities, ChildKind, Manifest, Note, Observed, Owner, Plan
from trimode_operator.plan.names import Names, selector

__all__ = [
    "Capabilities",
    "ChildKind",
    "Manifest",
    "Names",
    "Note",
    "Observed",
    "Owner",
    "Plan",
    "make_plan",
    "selector",
]
