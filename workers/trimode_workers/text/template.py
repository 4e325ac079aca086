"""Chat templates: messages to the prompt's text, in a sandbox, because a template is code from a download."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trimode_workers.errors import TemplateError, TokenizerError
from trimode_workers.text.reasoning import CLOSING
from trimode_workers.text.tool_formats import format_of

Message = Mapping[str, Any]
MAX_REFUSAL_CHARACTERS = 300
"""Characters of a template's refusal that the client is shown: it may repeat a whole message."""


class _Generation(Extension):
    """`{% generation %}` marks an assistant's text for training; to a prompt it is a scope and nothing else."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own interface

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class ChatTemplate:
    """A compiled template. `specials` are names such as `bos_token` that the template may use."""

    def __init__(self, source: str, specials: Mapping[str, str]) -> None:
        def refuse(message: str) -> NoReturn:
            raise JinjaError(message)

        # Blocks trimmed and JSON plain, as transformers has them, for which templates are written: a line break more or
        # less is another prompt than the model was trained on.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._source = source
        self.reasons = CLOSING in source
        """Whether the model's reasoning stands between the usual marks."""
        self._specials = dict(specials)
        self._names_developers = "developer" in source
        self._shows_calls = "tool_call" in source
        self._shows_tools = "tools" in source
        self.calls = format_of(source)
        """How the model writes tool calls, None where that is unknown."""
        try:
            self._template = environment.from_string(source)
        except JinjaError as exc:
            raise TokenizerError(f"chat template: {exc}") from exc

    def names(self, switch: str) -> bool:
        """Whether a variable of that name can make a difference."""
        return re.search(rf"\b{re.escape(switch)}\b", self._source) is not None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        switches: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, ready for the assistant's answer. TemplateError where the template refuses.

        `tools` in OpenAI's form; `switches` are further variables.
        """
        if tools and not self._shows_tools:
            raise TemplateError("this model's chat template shows no tools; leave them out")
        known: list[Message] = []
        for message in messages:
            # A template that does not name a role drops it, or refuses it: what a developer says is said by the system;
            # calls that would vanish are refused.
            if message.get("tool_calls") and not self._shows_calls:
                raise TemplateError("this model's chat template shows no tool_calls; leave them out")
            unheard = message["role"] == "developer" and not self._names_developers
            known.append({**message, "role": "system"} if unheard else message)
        try:
            # `tools` and `documents` as transformers has them: a template may ask whether they are none.
            return self._template.render(
                messages=known,
                tools=tools or None,
                documents=None,
                add_generation_prompt=True,
                **{**self._specials, **(switches or {})},
            )
        except Exception as exc:  # a template is a program of others: adding None to a text is a TypeError
            words = str(exc) or type(exc).__name__
            words = words if len(words) <= MAX_REFUSAL_CHARACTERS else f"{words[:MAX_REFUSAL_CHARACTERS]}..."
            raise TemplateError(f"the model's chat template refuses these messages: {words}") from exc


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja's own filter escapes for HTML, which is not what models were trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
