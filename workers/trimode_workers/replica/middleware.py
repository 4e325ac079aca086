"""What every answer of the replica's HTTP port has: the fleet's token asked for, the request's id, OpenAI's errors."""

from __future__ import annotations

import hmac
import logging

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from trimode_api.errors import ApiError
from trimode_api.wire import REQUEST_ID_HEADER

_log = logging.getLogger(__name__)


def name(request: web.Request, response: web.StreamResponse) -> None:
    """The router's id of the request goes back with every answer, so that logs can be matched."""
    request_id = request.headers.get(REQUEST_ID_HEADER)
    if request_id is not None and not response.prepared:
        response.headers[REQUEST_ID_HEADER] = request_id


def guard(token: str) -> Middleware:
    """Refuses (401) whoever does not send the fleet's token; `/health` is open."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode()
        if request.path != "/health" and not hmac.compare_digest(given, expected):
            raise ApiError(401, "the fleet's token is missing or wrong", code="invalid_token")
        return await handler(request)

    return checked


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error in OpenAI's shape; only unexpected ones are logged."""
    try:
        response = await handler(request)
    except ApiError as exc:
        response = _error_response(exc)
    except web.HTTPException as exc:
        response = _error_response(ApiError(exc.status, exc.reason, code="http_error"))
    except ConnectionError:
        # The client is gone: an answer would reach nobody, and a log line would tell of a fault of ours.
        raise
    except Exception:  # noqa: BLE001 - the client gets an answer even for a bug
        _log.exception("a request failed")
        response = _error_response(ApiError(500, "internal error; the replica's log has more"))
    name(request, response)
    return response


def _error_response(error: ApiError) -> web.Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return web.json_response(error.body(), status=error.status, headers=headers)
