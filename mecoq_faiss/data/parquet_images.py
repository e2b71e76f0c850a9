"""Images in the rows of a Parquet file, as Hugging Face writes them: made a plain tar, in which any can be read."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mecoq_faiss.data.images import IMAGE_TYPES
from mecoq_faiss.storage.files import open_regular
from mecoq_faiss.storage.table import connected, first_row, named, place, quoted, reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PARQUET = ".parquet"
IMAGE_COLUMNS = ("image", "img", "bytes", "image_bytes", "content", "jpg", "png", "webp")
PATH_COLUMNS = ("path", "image_path", "file_name", "filename", "file", "key", "id")
LABEL_COLUMNS = ("label", "class", "cls", "category")
ROWS = 256  # taken together
MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp", b"II*": ".tif"}


def write_tar(path: str | Path, out: BinaryIO) -> None:
    """Write a Parquet file's images into a plain tar, named by their paths or rows, and by their class's folder.

    The column of images is one of `IMAGE_COLUMNS`, bytes or Hugging Face's struct of `bytes` and `path`, or the only
    one of its kind; paths and classes are taken from `PATH_COLUMNS` and `LABEL_COLUMNS`, where there are any.

    Raises:
        ValueError: no such column, or no Parquet file, in one line.
        ImportError: no DuckDB.
    """
    with open_regular(path) as file, connected([file]) as connection:
        import duckdb

        written = int(os.fstat(file.fileno()).st_mtime)  # its images': by size and time it is known what has changed
        at = f"read_parquet({quoted(place(file))})"
        try:
            kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE FROM {at}").fetchall()}
            content, name = _image_column(path, kinds)
            label = next((column for column in LABEL_COLUMNS if column in kinds), None)
            classes = _class_names(connection, place(file), label)
            columns = [content, name or "NULL", "NULL" if label is None else named(label)]
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM {at}")
            with tarfile.open(fileobj=out, mode="w") as tar:
                number = 0
                while block := rows.fetchmany(ROWS):
                    for image, own, of_class in block:
                        member = _member(number, image or b"", own, _class(of_class, classes))
                        member.size, member.mtime = len(image or b""), written
                        tar.addfile(member, io.BytesIO(image or b""))
                        number += 1
        except duckdb.Error as error:
            raise ValueError(f"{path} is no readable Parquet file ({reason(error)})") from error


def _image_column(path: str | Path, kinds: dict[str, str]) -> tuple[str, str | None]:
    """SQL for an image's bytes, and for its path."""
    fits = [column for column, kind in kinds.items() if kind == "BLOB" or _is_struct(kind)]
    chosen = next((column for column in IMAGE_COLUMNS if column in fits), fits[0] if len(fits) == 1 else None)
    if chosen is None:
        found = f"its binary columns are {', '.join(fits)}" if fits else f"its columns are {', '.join(kinds)}"
        raise ValueError(f"{path}: no column of images: call one {IMAGE_COLUMNS[0]!r}, of bytes; {found}"[:300])
    own = next((column for column in PATH_COLUMNS if column in kinds), None)
    if _is_struct(kinds[chosen]):
        inside = f"{named(chosen)}.path" if '"path"' in kinds[chosen] or "path " in kinds[chosen] else "NULL"
        return f"{named(chosen)}.bytes", inside if own is None else f"coalesce({named(own)}::VARCHAR, {inside})"
    return named(chosen), None if own is None else f"{named(own)}::VARCHAR"


def _is_struct(kind: str) -> bool:
    return kind.startswith("STRUCT") and "bytes" in kind and "BLOB" in kind


def _class_names(connection: DuckDBPyConnection, at: str, label: str | None) -> list[str]:
    """What the numbers of a ClassLabel of Hugging Face mean; empty where the file does not say."""
    query = f"SELECT value FROM parquet_kv_metadata({quoted(at)}) WHERE key = 'huggingface'"
    (text,) = first_row(connection, query) or (b"{}",)
    try:
        return [str(name) for name in json.loads(bytes(text))["info"]["features"][label]["names"]]
    except (ValueError, LookupError, TypeError):
        return []


def _class(value: Any, names: list[str]) -> str | None:
    if isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    return None if value is None or isinstance(value, float | list) else str(value).replace("/", "-") or None


def _member(number: int, image: bytes, path: str | None, of_class: str | None) -> tarfile.TarInfo:
    ending = next((ending for magic, ending in MAGIC.items() if image.startswith(magic)), ".jpg")
    name = (path or f"{number:09}").strip("/")
    name = name if name.lower().endswith(IMAGE_TYPES) else name + ending
    return tarfile.TarInfo(name if of_class is None else f"{of_class}/{name}")
