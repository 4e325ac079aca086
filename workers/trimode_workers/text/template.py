"""Chat templates: messages to the prompt's text, in a sandbox, because a template is code from a download.

Belongs here: jinja and what published templates expect of their surroundings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError as JinjaError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trimode_workers.text.errors import TemplateError, TokenizerError


class ChatTemplate:
    """A compiled template. `specials` are names such as `bos_token` that the template may use."""

    def __init__(self, source: str, specials: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _strftime_now
        self._specials = dict(specials)
        try:
            self._template = environment.from_string(source)
        except JinjaError as exc:
            raise TokenizerError(f"chat template: {exc}") from exc

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt's text, ready for the assistant's answer. TemplateError where the template refuses."""
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=True, **self._specials)
        except JinjaError as exc:
            raise TemplateError(f"the model's chat template refuses these messages: {exc}") from exc


def _refuse(message: str) -> NoReturn:
    raise JinjaError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    """Plain JSON: jinja's own filter escapes for HTML, which is not what models were trained on."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
