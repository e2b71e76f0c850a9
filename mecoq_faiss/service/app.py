"""The HTTP service: its routes, and what each answers."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, Response

import mecoq_faiss
from mecoq_faiss.bundle.opened import open_bundle
from mecoq_faiss.data.images import UnreadableImage
from mecoq_faiss.service import answers
from mecoq_faiss.service.access import reader, searcher, writer
from mecoq_faiss.service.errors import say_errors
from mecoq_faiss.service.guard import Guard
from mecoq_faiss.service.requests import Upload, asked, uploads
from mecoq_faiss.service.schema import (
    ADD_REQUEST,
    EXAMPLE_ANSWER,
    MOST_HITS,
    MOST_QUERIES,
    SEARCH_REQUEST,
    WHERE,
    Added,
    ErrorBody,
    HealthBody,
    ItemBody,
    SearchAnswer,
    ServiceBody,
)
from mecoq_faiss.service.searching import Found, Search
from mecoq_faiss.service.settings import Settings
from mecoq_faiss.service.state import Opener, Served, State
from mecoq_faiss.storage.files import replacing

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"": "index.html", "page.css": "page.css", "page.js": "page.js", "icon.svg": "icon.svg"}
THUMBNAIL, LARGEST = 320, 2048  # pixels
WRONG: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
}
OfBundle = Annotated[str | None, Query(max_length=200, description="which of the bundles; by default the first")]


def create_app(settings: Settings, opener: Opener = open_bundle) -> FastAPI:
    """The application; bundles are opened by `opener`, and the errors of `State` raised, here."""
    state = State(settings, opener)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield
        await state.stop()

    app = FastAPI(
        title="mecoq-faiss", version=mecoq_faiss.__version__, summary="Image search with learned FAISS codes",
        docs_url=None, redoc_url=None, lifespan=lifespan, max_body_size=settings.max_bytes,
    )  # fmt: skip
    app.state.service = state
    app.add_middleware(Guard, metrics=state.metrics, seconds=settings.seconds)
    say_errors(app, state)
    _say_health(app, state)
    _search(app, state)
    _items(app, state)
    _change(app, state)
    return app


def _say_health(app: FastAPI, state: State) -> None:
    @app.get("/health", response_model=HealthBody, tags=["service"], responses={503: {"model": HealthBody}})
    async def health(response: Response) -> HealthBody:
        """Live, and ready: bundles are open and decoders run; 503 until then."""
        response.status_code = 200 if state.ready else 503
        return HealthBody(live=True, ready=state.ready)

    @app.get("/metrics", tags=["service"], dependencies=[Depends(reader)], response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text: requests, latencies, what waits, what is served."""
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/service", response_model=ServiceBody, tags=["service"])
    async def service(key: Annotated[Any, Depends(reader)]) -> ServiceBody:
        """What is served, and what this client may do."""
        bundles = []
        for name, served in state.served.items():
            with served.bundle.in_use() as generation:
                bundles.append(answers.described(name, generation))
        return ServiceBody(
            version=mecoq_faiss.__version__, bundles=bundles, pictures=state.pictures is not None,
            needs_key=state.keys is not None, may_write=key is not None and key.right == "write",
            most_queries=MOST_QUERIES, most_hits=MOST_HITS,
        )  # fmt: skip

    def page(name: str) -> None:
        @app.get(f"/{name}", include_in_schema=False)
        async def show() -> Response:
            return FileResponse(PAGE / PAGE_FILES[name], headers={"cache-control": "no-cache"})

    for name in PAGE_FILES:
        page(name)


def _served(state: State, name: str | None) -> Served:
    served = next(iter(state.served.values())) if name is None else state.served.get(name)
    if served is None:
        raise HTTPException(
            404, f"no bundle {name[:60] if name else name!r} is served: there are {', '.join(state.served)}"
        )
    return served


def _picture(state: State, served: Served) -> str | None:
    first = next(iter(state.served))
    of_bundle = "" if served.name == first else f"?bundle={served.name}"
    return None if state.pictures is None else "/items/{}/picture" + of_bundle


async def _answer(state: State, served: Served, names: list[str], search: Search) -> Response:
    found: Found = await served.batches.search(search)
    said = answers.results(names, found, _picture(state, served))
    answer = SearchAnswer(bundle=served.name, generation=found.generation, missing_shards=found.missing, results=said)
    return Response(
        answer.model_dump_json(), media_type="application/json"
    )  # as it is: it was checked when it was made


def _search(app: FastAPI, state: State) -> None:
    @app.post(
        "/search",
        response_model=SearchAnswer,
        tags=["search"],
        dependencies=[Depends(searcher)],
        responses=WRONG | {200: {"content": {"application/json": {"example": EXAMPLE_ANSWER}}}},
        openapi_extra={"requestBody": SEARCH_REQUEST},
    )
    async def search(request: Request) -> Response:
        """The k best items for each of one or more images, or vectors."""
        given = await asked(request)
        served = _served(state, given.options.bundle)
        encoder = served.bundle.encoder
        shape = encoder.shape
        if encoder.takes_features != (given.vectors is not None):
            raise HTTPException(422, f"the bundle takes {'vectors' if encoder.takes_features else 'images'}")
        if given.vectors is not None:
            queries = given.vectors
            if queries.shape[1:] != shape:
                raise HTTPException(422, f"the bundle takes vectors of width {shape[0]}, got {queries.shape[1]}")
        else:
            started = time.perf_counter()
            queries = await state.decoder.views(given.images or [], shape[1])
            state.metrics.decode.observe(time.perf_counter() - started)
        asked_for = given.options
        what = Search(queries, asked_for.k, asked_for.where, asked_for.explain, asked_for.partial)
        return await _answer(state, served, given.names, what)

    @app.get(
        "/items/{id}/similar",
        response_model=SearchAnswer,
        tags=["search"],
        dependencies=[Depends(searcher)],
        responses=WRONG,
    )
    async def similar(
        id: int,
        k: Annotated[int | None, Query(ge=1, le=MOST_HITS)] = None,
        where: Annotated[str | None, Query(max_length=10_000, description=WHERE)] = None,
        explain: bool = False,
        partial: bool = False,
        bundle: OfBundle = None,
    ) -> Response:
        """Items like one of the bundle, by its code."""
        return await _answer(state, _served(state, bundle), [f"item {id}"], Search(id, k, where, explain, partial))


def _items(app: FastAPI, state: State) -> None:
    @app.get("/items/{id}", response_model=ItemBody, tags=["items"], dependencies=[Depends(reader)], responses=WRONG)
    async def item(id: int, bundle: OfBundle = None) -> ItemBody:
        """One item."""
        served = _served(state, bundle)
        with served.bundle.in_use() as generation:
            return answers.item(generation, id, _picture(state, served))

    @app.get(
        "/items/{id}/picture",
        tags=["items"],
        dependencies=[Depends(reader)],
        responses=WRONG | {200: {"content": {"image/jpeg": {}}}},
        response_class=Response,
    )
    async def picture(
        request: Request,
        id: int,
        size: Annotated[int, Query(ge=16, le=LARGEST, description="pixels of the longer side")] = THUMBNAIL,
        bundle: OfBundle = None,
    ) -> Response:
        """The item's picture, made small; with an ETag."""
        if state.pictures is None:
            raise HTTPException(404, "the service shows no pictures: start it with --images")
        with _served(state, bundle).bundle.in_use() as generation:
            path = generation.paths(np.array([generation.row_of(id)]))[0]
        etag = state.pictures.etag(path, size)
        headers = {"etag": etag, "cache-control": "private, no-cache"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        try:
            content = await state.pictures.picture(path, size, etag)
        except UnreadableImage:
            raise HTTPException(404, "the picture of this item cannot be read") from None
        return Response(content, media_type="image/jpeg", headers=headers)


def _change(app: FastAPI, state: State) -> None:
    @app.post(
        "/items",
        response_model=Added,
        status_code=201,
        tags=["changes"],
        dependencies=[Depends(writer)],
        responses=WRONG,
        openapi_extra={"requestBody": ADD_REQUEST},
    )
    async def add(request: Request, replace: bool = False, bundle: OfBundle = None) -> Any:
        """Add images; with `replace` also in place of pictures that are there under the same path."""
        served = _served(state, bundle)
        if served.bundle.encoder.takes_features:
            raise HTTPException(422, "the bundle holds features: add to it with `mecoq-faiss add`")
        new = await uploads(request)
        await state.decoder.views([upload.content for upload in new], served.bundle.encoder.shape[1])
        async with state.writing:
            if state.pictures is not None:
                places = {upload.path: state.pictures.place(upload.path) for upload in new}
                there = [path for path, place in places.items() if place.exists()]
                if there and not replace:
                    raise HTTPException(409, f"{there[0]} is there: choose another name, or ask with ?replace=true")
            done = await asyncio.to_thread(_add, state, served, new)
            await state.taken_up(served)
        return done

    @app.delete("/items/{id}", response_model=Added, tags=["changes"], dependencies=[Depends(writer)], responses=WRONG)
    async def remove(id: int, bundle: OfBundle = None) -> Any:
        """Remove an item from the bundle; its picture's file stays."""
        served = _served(state, bundle)
        with served.bundle.in_use() as generation:
            generation.row_of(id)
        async with state.writing:
            done = await asyncio.to_thread(served.bundle.remove, [id])
            await state.taken_up(served)
        return done


def _add(state: State, served: Served, new: list[Upload]) -> dict[str, Any]:
    """Add the images to the bundle, and then to the folder of pictures, if there is one."""
    with tempfile.TemporaryDirectory(prefix="mecoq-faiss-") as folder:
        files = [Path(folder) / upload.path for upload in new]
        for file, upload in zip(files, new, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(upload.content)
        try:
            done = served.bundle.add(files, root=folder)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error  # where it lay is nobody's business
        if state.pictures is not None:
            for file, upload in zip(files, new, strict=True):
                target = state.pictures.place(upload.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:
                    shutil.copy2(file, temporary)  # with its time, by which an update knows it
    return {name: value for name, value in done.items() if name in ("added", "altered", "unchanged", "items")}
