"""What a client asks for: the few fields of a body that routing needs, parsed once. [pure]

The body itself travels on unchanged; the replica checks all the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

import msgspec

from trimode_api.errors import ApiError, shown
from trimode_api.modes import LOSSY_REFUSED, Mode, OperatingPoint, Wish, allows_lossy
from trimode_api.openai_parts import WORKLOAD
from trimode_policy.affinity import Beginning
from trimode_policy.values import value

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"

QUALITIES = ("lossless", "lossy-ok")
BYTES_PER_TOKEN = 4
"""Rule of thumb for English and code; only the order of magnitude matters to routing."""

SHORTEST_BEGINNING, LONGEST_BEGINNING = 1024, 65536
"""Bytes of the shortest beginning of a prompt that is told apart, and of the longest; those between are its doubles."""

_WORKLOAD = re.compile(WORKLOAD)
_AT = re.compile(r"(?P<what>.*?) - at `\$\.?(?P<where>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")


class DecodingWish(msgspec.Struct, frozen=True):
    """The request's `trimode` object: a wish for one mode, and what kind of text it is."""

    mode: str | None = None
    blockLength: int | None = None
    threshold: float | None = None
    quality: str | None = None
    workload: str | None = None


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    priority: int | None = None
    quality: str | None = None
    trimode: DecodingWish | None = None


class _Chat(_Common):
    messages: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")


class _Text(_Common):
    prompt: msgspec.Raw = msgspec.Raw(b"")


_CHAT = msgspec.json.Decoder(_Chat)
_TEXT = msgspec.json.Decoder(_Text)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_SEVERAL = re.compile(rb'\[\s*["\[]')


@value
class ParsedRequest:
    """One request as routing sees it. `prompt_tokens` is an estimate, and so are those of the `beginnings`. `order`:
    where requests of a tier wait, the lowest goes first."""

    model: str
    stream: bool
    prompt_tokens: int
    max_tokens: int | None
    lossy_ok: bool
    pin: Wish | None
    beginnings: tuple[Beginning, ...] = ()
    choices: int = 1
    workload: str = ""
    order: int = 0


def parse(path: str, body: bytes, points: Sequence[OperatingPoint]) -> ParsedRequest:
    """The fields of a chat or text completion's `body`; `points` are those the fleet may run.

    Raises ApiError (400) that names the field, the value and what is allowed.
    """
    try:
        if path == CHAT_PATH:
            chat = _CHAT.decode(body)
            common: _Common = chat
            prompt, prompts = _required(bytes(chat.messages), "messages", b"[", "a list of messages"), 1
            tools = len(chat.tools)  # templates show them before the messages
        else:
            text = _TEXT.decode(body)
            common = text
            prompt = _required(bytes(text.prompt), "prompt", b'["', "a string or a list")
            # A list of token ids is one prompt.
            prompts, tools = len(_LIST.decode(prompt)) if _SEVERAL.match(prompt) else 1, 0
    except (RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refusal(error) from error
    limit = _limit(common, 1 if path == CHAT_PATH else 0)  # evaluations ask for a prompt's logprobs alone
    pin = wish_in(common.trimode, points) if common.trimode is not None else None
    lossy_ok = _lossy_ok(common, pin)
    workload = common.trimode.workload if common.trimode is not None else None
    if workload is not None and not _WORKLOAD.match(workload):
        raise _bad("trimode.workload", f"must be up to 32 of a-z, 0-9 and '-', got {shown(workload)}")
    return ParsedRequest(
        model=common.model,
        stream=bool(common.stream),
        prompt_tokens=max(1, (len(prompt) + tools) // BYTES_PER_TOKEN),
        max_tokens=limit,
        lossy_ok=lossy_ok,
        pin=pin,
        beginnings=beginnings(prompt),
        choices=max(1, common.n or 1) * prompts,
        workload=workload or "",
        order=common.priority or 0,
    )


def beginnings(prompt: bytes) -> tuple[Beginning, ...]:
    """Names for the beginnings of a prompt as it is written, shortest first; none for a short one.

    A conversation that goes on begins with the same bytes, for as long as its client writes them the same way. Two
    prompts under one name only send a request to a replica that has to compute it after all.
    """
    if len(prompt) < SHORTEST_BEGINNING:
        return ()
    found: list[Beginning] = []
    view, length, name = memoryview(prompt), SHORTEST_BEGINNING, 0
    while length <= min(len(view), LONGEST_BEGINNING):
        name = crc32(view[length // 2 if found else 0 : length], name)
        found.append((length // BYTES_PER_TOKEN, name))
        length *= 2
    return tuple(found)


def wish_in(options: DecodingWish, points: Sequence[OperatingPoint]) -> Wish | None:
    """What `options` insists on, None where it names no mode.

    Raises ApiError (400) where a mode is unknown or none of `points` fits.
    """
    if options.mode is None:
        if options.blockLength is not None or options.threshold is not None:
            raise _bad("trimode.mode", "is required where blockLength or threshold is set")
        return None
    try:
        mode = Mode(options.mode)
    except ValueError as error:
        allowed = ", ".join(mode.value for mode in Mode)
        raise _bad("trimode.mode", f"{shown(options.mode)} is not a mode; allowed: {allowed}") from error
    # Not resolved to a point here: settled on the shortest block of all pools, a request was refused whenever that
    # one's pool was away.
    wish = Wish(mode, options.blockLength, options.threshold)
    if not any(map(wish.fits, points)):
        raise _bad("trimode", f"{wish} is not offered; allowed: {', '.join(map(str, points))}")
    return wish


def _limit(common: _Common, least: int) -> int | None:
    name, limit = "max_completion_tokens", common.max_completion_tokens
    if limit is None:
        name, limit = "max_tokens", common.max_tokens
    if limit is not None and limit < least:
        raise _bad(name, f"must be at least {least}, got {limit}")
    return limit


def _lossy_ok(common: _Common, wish: Wish | None) -> bool:
    said = common.quality
    if said is None and common.trimode is not None:
        said = common.trimode.quality
    if said is not None and said not in QUALITIES:
        raise _bad("quality", f"must be one of {', '.join(QUALITIES)}, got {shown(said)}")
    allowed = allows_lossy(said, None if wish is None else wish.mode)
    if wish is not None and not wish.mode.lossless and not allowed:
        raise _bad("trimode.mode", LOSSY_REFUSED)
    return allowed


def _required(raw: bytes, name: str, starts: bytes, kind: str) -> bytes:
    if not raw or raw == b"null":
        raise _bad(name, f"is required: {kind}", code="missing_required_parameter")
    if raw[0] not in starts:
        raise _bad(name, f"must be {kind}")
    return raw


def _bad(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"{param}: {message}", code=code, param=param)


def _refusal(error: Exception) -> ApiError:
    """Of a body that could not be decoded. What msgspec says of a field is put into our words: the field first."""
    text = str(error)
    if isinstance(error, RecursionError):
        return ApiError(400, "the request body is nested too deeply", code="invalid_json")
    if isinstance(error, UnicodeDecodeError):
        return ApiError(400, "the request body is not valid UTF-8", code="invalid_json")
    if not isinstance(error, msgspec.ValidationError):
        return ApiError(400, f"the request body is not valid JSON: {text}", code="invalid_json")
    missing = _MISSING.match(text)
    if missing:
        return _bad(missing["name"], "is required", code="missing_required_parameter")
    match = _AT.match(text)
    if match is None:
        return ApiError(400, f"the request body must be an object: {text}", code="invalid_value")
    what = match["what"].replace("`", "")
    return _bad(match["where"], what[:1].lower() + what[1:], code="invalid_type")
