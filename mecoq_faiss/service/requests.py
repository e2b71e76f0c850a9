"""What a request asks: bodies of strangers -> checked queries."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from mecoq_faiss.data.images import IMAGE_TYPES
from mecoq_faiss.service.schema import MOST_QUERIES, SearchBody

MOST_FIELDS, FIELD_BYTES = 16, 1 << 16
OPTIONS = ("k", "where", "explain", "partial", "bundle")
LONGEST_NAME = 500
DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,")


class Asked(NamedTuple):
    """A search: names of its queries, image files or vectors, and its options."""

    names: list[str]
    images: list[bytes] | None
    vectors: np.ndarray | None
    options: SearchBody


class Upload(NamedTuple):
    """An image to be added."""

    path: str
    content: bytes


async def asked(request: Request) -> Asked:
    """The search in a request's body; HTTPException 400, 415 or 422 says what is wrong with it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _of_form(request)
    if kind == "application/json":
        return _of_json(await request.body())
    raise HTTPException(415, "send multipart/form-data or application/json: see /openapi.json")


async def _of_form(request: Request) -> Asked:
    async with request.form(max_files=MOST_QUERIES, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES) as form:
        files = _files(form)
        options: dict[str, Any] = {name: form[name] for name in OPTIONS if form.get(name, "") != ""}
        unknown = sorted(set(form) - {*OPTIONS, "images"})
        if unknown:
            raise HTTPException(422, f"the field {unknown[0][:40]!r} is none: give images, {', '.join(OPTIONS)}")
        if any(not isinstance(value, str) for value in options.values()):
            raise HTTPException(422, f"{', '.join(OPTIONS)} are texts, not files")
        names = [PurePosixPath(file.filename or "image").name[:LONGEST_NAME] for file in files]
        return Asked(names, [await file.read() for file in files], None, _checked(options))


def _files(form: FormData) -> list[UploadFile]:
    files = [value for value in form.getlist("images") if isinstance(value, UploadFile)]
    if not files or len(files) < len(form.getlist("images")):
        raise HTTPException(422, "no image: send one or more files in the field 'images'")
    return files


def _of_json(body: bytes) -> Asked:
    options = _checked(body)
    if (options.images is None) == (options.vectors is None):
        raise HTTPException(422, "give either images, in base64, or vectors")
    given = options.images or options.vectors
    if not given:
        raise HTTPException(422, "no query: give at least one")
    names = [f"query {number}" for number in range(1, len(given) + 1)]
    if options.images is not None:
        return Asked(names, [_decoded(text) for text in options.images], None, options)
    widths = {len(vector) for vector in options.vectors or []}
    if len(widths) != 1:
        raise HTTPException(422, "the vectors differ in width: give as many numbers in each")
    with np.errstate(over="ignore"):
        vectors = np.array(options.vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise HTTPException(422, "the vectors hold numbers beyond float32")
    return Asked(names, None, vectors, options)


def _checked(given: dict[str, Any] | bytes) -> SearchBody:
    try:
        return SearchBody.model_validate_json(given) if isinstance(given, bytes) else SearchBody.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:60]
        raise HTTPException(422, f"{place or 'body'}: {first['msg']}") from None


def _decoded(text: str) -> bytes:
    prefix = DATA_URI.match(text[:60])
    try:
        return base64.b64decode(text[prefix.end() :] if prefix else text, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, "an image is no base64: encode the file's bytes") from None


async def uploads(request: Request) -> list[Upload]:
    """The images to be added in a form; HTTPException says what is wrong with it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, "send multipart/form-data with files in the field 'images'")
    async with request.form(max_files=MOST_QUERIES, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES) as form:
        files = _files(form)
        found = [Upload(_path(file.filename or ""), await file.read()) for file in files]
    if len({upload.path for upload in found}) < len(found):
        raise HTTPException(422, "two images have one path: name each its own")
    return found


def _path(name: str) -> str:
    """A file's name as the path of an item, relative and below the collection's folder."""
    parts = PurePosixPath(name).parts
    odd = not parts or "\\" in name or not name.isprintable() or len(name) > LONGEST_NAME or name.startswith("/")
    if odd or any(part.startswith(".") or len(part.encode()) > 200 for part in parts):
        raise HTTPException(422, "an image's file name is the item's path: relative, no part of it beginning with '.'")
    if PurePosixPath(name).suffix.lower() not in IMAGE_TYPES:
        raise HTTPException(422, f"{name[:60]!r} has none of the endings {', '.join(IMAGE_TYPES)}")
    return "/".join(parts)
