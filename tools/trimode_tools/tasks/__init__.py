"""Checkable text tasks, made by seeded generators: what the tiny model learns and is marked on. Pure."""

from trimode_tools.tasks.generators import Sample, check
from trimode_tools.tasks.suite import HELD_OUT_SHARE, TASKS, held_out_set, is_held_out, stream

__all__ = ["HELD_OUT_SHARE", "TASKS", "Sample", "check", "held_out_set", "is_held_out", "stream"]
