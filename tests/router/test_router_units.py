"""The pure parts: reading a request, the waiting room, rules."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.errors import ApiError
from trimode_api.modes import AR, Mode, Wish, diffusion, speculation
from trimode_router.edge.server import bound_address, reachable_url
from trimode_router.http.limits import Limits
from trimode_router.http.reader import RequestReader
from trimode_router.http.request import Request, split_target
from trimode_router.request.parse import CHAT_PATH, TEXT_PATH, DecodingWish, beginnings, parse, wish_in

POINTS = (AR, speculation(8), speculation(16), diffusion(32, 0.9))


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 400}], **fields}).encode()


def test_defaults_of_a_request() -> None:
    asked = parse(CHAT_PATH, chat(), POINTS)
    assert (asked.stream, asked.max_tokens, asked.lossy_ok, asked.pin) == (False, None, False, None)
    assert 100 <= asked.prompt_tokens <= 130


def test_a_conversation_that_goes_on_begins_like_its_past() -> None:
    said = [{"role": "user", "content": "what is " + "x" * 3000}, {"role": "assistant", "content": "y" * 2000}]
    first = parse(CHAT_PATH, json.dumps({"model": "m", "messages": said[:1]}).encode(), POINTS).beginnings
    later = parse(CHAT_PATH, json.dumps({"model": "m", "messages": said}).encode(), POINTS).beginnings
    other = parse(CHAT_PATH, json.dumps({"model": "m", "messages": said[1:]}).encode(), POINTS).beginnings
    assert [tokens for tokens, _ in later] == [256, 512, 1024]
    assert later[: len(first)] == first
    assert len(first) == 2
    assert not set(other) & set(later)
    assert parse(CHAT_PATH, chat(), POINTS).beginnings == ()
    assert len(beginnings(b"z" * 1_000_000)) == 7


@given(st.binary(min_size=1, max_size=9), st.integers(0, 5000), st.integers(1, 5000))
def test_beginnings_name_what_they_are_of(seed: bytes, length: int, more: int) -> None:
    """Those of a longer prompt start with those of a shorter one that it begins with, and with no other."""
    text = (seed * (length + more))[: length + more]
    assert beginnings(text)[: len(beginnings(text[:length]))] == beginnings(text[:length])
    changed = bytes([text[0] ^ 1]) + text[1:]
    assert not set(beginnings(changed)) & set(beginnings(text))


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    assert parse(CHAT_PATH, chat(max_tokens=5, max_completion_tokens=7), POINTS).max_tokens == 7


def test_prompts_of_a_text_completion() -> None:
    for prompt in ("hi", ["a", "b"], [1, 2, 3]):
        assert parse(TEXT_PATH, json.dumps({"model": "m", "prompt": prompt}).encode(), POINTS).prompt_tokens >= 1
    for prompt, prompts in (("hi", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2), ([], 1)):
        for n in (1, 3):
            body = json.dumps({"model": "m", "prompt": prompt, "n": n}).encode()
            assert parse(TEXT_PATH, body, POINTS).choices == prompts * n
    with pytest.raises(ApiError, match="a string or a list"):
        parse(TEXT_PATH, b'{"model": "m", "prompt": {"a": 1}}', POINTS)


@pytest.mark.parametrize(
    ("dial", "wish"),
    [
        (DecodingWish(mode="AR"), Wish(Mode.AR)),
        (DecodingWish(mode="SelfSpeculation"), Wish(Mode.SELF_SPECULATION)),
        (DecodingWish(mode="SelfSpeculation", blockLength=16), Wish(Mode.SELF_SPECULATION, 16)),
        (DecodingWish(mode="Diffusion"), Wish(Mode.DIFFUSION)),
        (DecodingWish(mode="Diffusion", blockLength=32, threshold=0.9), Wish(Mode.DIFFUSION, 32, 0.9)),
        (DecodingWish(), None),
    ],
)
def test_a_wish_stays_a_wish(dial: DecodingWish, wish: Wish | None) -> None:
    """Which point serves it is for the replica: a pool that is away must not decide it."""
    assert wish_in(dial, POINTS) == wish


@pytest.mark.parametrize(
    "dial", [DecodingWish(mode="Diffusion", threshold=0.5), DecodingWish(mode="SelfSpeculation", blockLength=4)]
)
def test_a_wish_that_nothing_fits(dial: DecodingWish) -> None:
    with pytest.raises(ApiError, match=r"allowed: AR, S8, S16, D32@0\.9"):
        wish_in(dial, POINTS)


def test_who_asks_for_diffusion_allows_it() -> None:
    assert parse(CHAT_PATH, chat(trimode={"mode": "Diffusion"}), POINTS).lossy_ok
    assert parse(CHAT_PATH, chat(quality="lossy-ok"), POINTS).lossy_ok
    assert parse(CHAT_PATH, chat(trimode={"quality": "lossy-ok"}), POINTS).lossy_ok
    assert not parse(CHAT_PATH, chat(quality="lossless"), POINTS).lossy_ok
    with pytest.raises(ApiError, match="Diffusion is lossy"):
        parse(CHAT_PATH, chat(quality="lossless", trimode={"mode": "Diffusion"}), POINTS)


def test_a_body_nested_too_deeply_is_refused() -> None:
    for deep in (b"[" * 2000 + b"]" * 2000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        error = refusal(b'{"model": "m", "messages": ' + deep + b"}")
        assert error is not None
        assert error.status == 400
        error = refusal(b'{"model": "m", "messages": [], "metadata": ' + deep + b"}")
        assert error is not None
        assert (error.status, error.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    "fields", [{"quality": "x" * 9000}, {"trimode": {"mode": "x" * 9000}}, {"trimode": {"workload": "x" * 9000}}]
)
def test_no_message_repeats_the_input_at_length(fields: dict[str, object]) -> None:
    error = refusal(chat(**fields))
    assert error is not None
    assert len(error.message) < 400


def refusal(body: bytes) -> ApiError | None:
    try:
        parse(CHAT_PATH, body, POINTS)
    except ApiError as error:
        return error
    return None


@given(st.binary(max_size=200))
def test_no_body_crashes_the_parser(body: bytes) -> None:
    error = refusal(body)
    assert error is not None
    assert error.status == 400


@given(
    st.sampled_from(["model", "messages", "stream", "max_tokens", "quality", "trimode"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda s: st.lists(s, max_size=3)),
)
def test_no_value_crashes_the_parser(name: str, value: object) -> None:
    error = refusal(chat(**{name: value}))
    if error is not None:
        assert error.status == 400
        assert (error.param or name).startswith(name)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [(b"/a?b=c", "/a", "b=c"), (b"http://x/a", "/a", ""), (b"http://x", "/", ""), (b"*", "*", ""), (b"/", "/", "")],
)
def test_targets(target: bytes, path: str, query: str) -> None:
    assert split_target(target) == (path, query)


def test_defaults_of_the_limits_are_pinned() -> None:
    limits = Limits()
    assert (limits.header_bytes, limits.body_bytes) == (16384, 8388608)
    assert (limits.header_seconds, limits.body_seconds, limits.idle_seconds) == (10, 60, 120)
    assert (limits.attempts, limits.slack) == (3, 1)


PIECES = (
    b"GET /a HTTP/1.1\r\nHost: x\r\nx-request-id: one\r\n\r\n",
    b"POST /b?c HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello world",
    b"POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: t\r\n\r\n",
    b"HEAD http://x/e HTTP/1.1\r\nHost: x\r\nx-trimode-tier: gold\r\n\r\n",
    b"POST /f HTTP/1.0\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
    b"NONSENSE\r\n\r\n",
    b"POST /g HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /h HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET /i HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 600 + b"\r\n\r\n",
    b"GET /j HTTP/1.1\r\n\r\n",
)


def read(data: bytes, cuts: list[int]) -> list[Request]:
    reader = RequestReader(Limits(header_bytes=500, body_bytes=100), lambda: "id", lambda method, path: None)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if start < end and not reader.deaf:
            reader.feed(data[start:end])
    return list(reader.ready)


@given(st.lists(st.sampled_from(PIECES), max_size=5), st.lists(st.integers(0, 5000), max_size=8))
def test_requests_do_not_depend_on_how_their_bytes_were_cut(pieces: list[bytes], cuts: list[int]) -> None:
    def told(requests: list[Request]) -> list[tuple[object, ...]]:
        return [
            (r.problem.status,) if r.problem else (r.method, r.path, r.body, r.keep, r.request_id, r.tier)
            for r in requests
        ]

    data = b"".join(pieces)
    assert told(read(data, cuts)) == told(read(data, []))


def test_a_wrong_request_is_not_skipped_for_the_one_behind_it() -> None:
    """Both in one piece: the client would take the second answer for the first."""
    (only,) = read(b"POST /a HTTP/1.1\r\n\r\n" + PIECES[0], [])
    assert only.problem is not None
    assert only.path == "/a"


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_no_bytes_crash_the_reader(data: bytes, cuts: list[int]) -> None:
    for request in read(b"POST /a HTTP/1.1\r\nHost: x\r\n" + data, cuts):
        assert request.problem is None or 400 <= request.problem.status < 600


@pytest.mark.parametrize(
    ("host", "address"), [("0.0.0.0", "0.0.0.0:80"), ("::", "[::]:80"), ("127.0.0.1", "127.0.0.1:80")]
)
def test_what_is_bound_is_said_as_it_is(host: str, address: str) -> None:
    assert bound_address(host, reachable_url("http", host, 80)) == address
    assert reachable_url("http", "0.0.0.0", 80) == "http://127.0.0.1:80"
