"""How models write tool calls: a small table, and which row a chat template is for.

Reading is in `tool_reader`, what forces a call is in `openai.tool_grammar`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimode_api.serving import ToolFormat


@dataclass(frozen=True, slots=True)
class CallFormat:
    """`opening` and `closing` stand around a call; `listed` calls are a JSON list behind one opening. Without an
    opening the calls are the whole answer. A call is `before`, the function's name, `between`, the arguments'
    object, `after`."""

    name: ToolFormat
    opening: str = ""
    closing: str = ""
    listed: bool = False
    before: str = '{"name": "'
    between: str = '", "arguments": '
    after: str = "}"

    @property
    def named_first(self) -> bool:
        """Whether a bare name, no JSON, may begin a call."""
        return self.opening == _MISTRAL


_MISTRAL = "[TOOL_CALLS]"
MARKERS = (_MISTRAL, "[ARGS]", "[CALL_ID]", "<tool_call>", "</tool_call>")
"""Texts that are tokens of their own, often special ones, where a model knows them."""

FORMATS = {
    form.name: form
    for form in (
        CallFormat(ToolFormat.HERMES, "<tool_call>", "</tool_call>"),
        CallFormat(ToolFormat.MISTRAL, _MISTRAL, before="", between="[ARGS]", after=""),
        CallFormat(ToolFormat.MISTRAL_LIST, _MISTRAL, listed=True),
        CallFormat(ToolFormat.LLAMA, between='", "parameters": '),
        CallFormat(ToolFormat.JSON),
    )
}


def format_of(template: str) -> CallFormat | None:
    """The row for a chat template's source; None where it shows the model no tools, or calls are written in a way that
    is not in the table."""
    if "tools" not in template:
        return None
    if _MISTRAL in template:
        return FORMATS[ToolFormat.MISTRAL if "[ARGS]" in template else ToolFormat.MISTRAL_LIST]
    if "<tool_call>" in template:
        # Qwen3-Coder has the same marker around XML.
        return None if "<function=" in template else FORMATS[ToolFormat.HERMES]
    if '"parameters": ' in template:
        return FORMATS[ToolFormat.LLAMA]
    return FORMATS[ToolFormat.JSON]
