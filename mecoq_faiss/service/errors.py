"""What the service answers where a request ends in an error: a status, and one line that says what to do."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException

from mecoq_faiss.bundle.shard import Replaced
from mecoq_faiss.index.part import PartLost
from mecoq_faiss.service.batches import Busy
from mecoq_faiss.service.searching import OutOfDate
from mecoq_faiss.service.state import State
from mecoq_faiss.storage.files import InUseError


def say_errors(app: FastAPI, state: State) -> None:
    """Answer what is raised on a request."""

    def say(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        line = state.without_paths(next(iter(text.splitlines()), "") or "the request cannot be answered")
        return JSONResponse({"error": line}, status, headers)

    @app.exception_handler(AnyHTTPException)
    async def http(request: Request, error: AnyHTTPException) -> Response:
        return say(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return say(422, f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}")

    @app.exception_handler(ValueError)
    async def wrong(request: Request, error: ValueError) -> Response:
        return say(422, str(error))

    @app.exception_handler(ImportError)
    async def lacking(request: Request, error: ImportError) -> Response:
        return say(501, str(error))

    @app.exception_handler(FileNotFoundError)
    async def missing(request: Request, error: FileNotFoundError) -> Response:
        return say(404, str(error))

    @app.exception_handler(KeyError)
    async def unknown(request: Request, error: KeyError) -> Response:
        return say(404, "no item has this id")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return say(500, "the service failed on this request: its log says why")

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return say(503, "too many queries wait: try again in a moment", {"retry-after": "1"})

    @app.exception_handler(PartLost)
    async def lost(request: Request, error: PartLost) -> Response:
        return say(503, f"{error}: try again in a moment, or ask for partial=true", {"retry-after": "1"})

    @app.exception_handler(Replaced)
    @app.exception_handler(OutOfDate)
    async def changed(request: Request, error: OutOfDate) -> Response:
        return say(503, "the bundle has just been exchanged: try again", {"retry-after": "1"})

    @app.exception_handler(InUseError)
    async def in_use(request: Request, error: InUseError) -> Response:
        return say(409, "another process is changing the bundle: try again when it is done", {"retry-after": "10"})
