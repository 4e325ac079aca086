"""Checkable text tasks, made by seeded generators: what the tiny model learns and is scored on. Pure."""

from trimode_tools.tasks.generators import TASKS, Sample, check
from trimode_tools.tasks.suite import HELD_OUT_SHARE, held_out_set, is_held_out, stream

__all__ = ["HELD_OUT_SHARE", "TASKS", "Sample", "check", "held_out_set", "is_held_out", "stream"]
