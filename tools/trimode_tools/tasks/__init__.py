"""Checkable text tasks, made by seeded generators: what the tiny model learns and is scored on. Pure."""

from trimode_tools.tasks.generators import TASKS, Sample, check
from trimode_tools.tasks.suite import HELD_OUT_SHARE, held_out_set, is_held_out, stream
from trimode_tools.tasks.tool_calls import TOOL_TASKS, ToolSample, held_out_tool_set, tool_stream

__all__ = [
    "HELD_OUT_SHARE",
    "TASKS",
    "TOOL_TASKS",
    "Sample",
    "ToolSample",
    "check",
    "held_out_set",
    "held_out_tool_set",
    "is_held_out",
    "stream",
    "tool_stream",
]
