"""What every request passes: headers that shut a page in, a time limit, a count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from mecoq_faiss.service.metrics import Metrics

Message = MutableMapping[str, Any]
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware around the whole service.

    Args:
        app: the rest.
        metrics: where answers are counted.
        seconds: the longest that a request may take, its body's way here included.
    """

    def __init__(self, app: Any, metrics: Metrics, seconds: float) -> None:
        self.app, self.metrics, self.seconds = app, metrics, seconds

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        try:
            async with asyncio.timeout(self.seconds):
                await self.app(scope, receive, with_headers)
        except TimeoutError:
            if not status:
                late = {"error": f"the request took more than {self.seconds:g} s: send less, or send it faster"}
                await JSONResponse(late, 408)(scope, receive, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, scope["method"] if route != "none" else "any", status or 499).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)
