"""Images of strangers, decoded in processes of their own: one that crashes or hangs there stops nothing but itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any

import numpy as np
from pebble import ProcessExpired, ProcessPool

from mecoq_faiss.data.images import PREFIX, UnreadableImage, decode_image
from mecoq_faiss.data.thumbnails import small_jpeg

NAME = "the image"  # in messages: files have no names here
JPEG_QUALITY = 85
START_SECONDS = 300  # of a process, on a busy machine


class Decoder:
    """A pool of processes that decode images.

    Args:
        workers: how many processes.
        seconds: the longest that one image may take.
        max_pixels: of an image, by its header.
    """

    def __init__(self, workers: int, seconds: float, max_pixels: int) -> None:
        self.seconds, self.workers = seconds, workers
        self._pool = ProcessPool(workers, context=get_context("spawn"), initializer=_begin, initargs=[max_pixels])

    async def started(self) -> None:
        """Return when the processes run, and have imported what they need."""
        jobs = [self._pool.schedule(_ready, timeout=START_SECONDS) for _ in range(self.workers)]
        await asyncio.gather(*map(asyncio.wrap_future, jobs))

    async def views(self, contents: Sequence[bytes], size: int) -> np.ndarray:
        """Image files -> their fixed views, (n, 3, size, size) uint8; UnreadableImage names the first that is none."""
        done = await asyncio.gather(*(self._run(_view, content, size) for content in contents), return_exceptions=True)
        views = []
        for number, view in enumerate(done, start=1):
            if isinstance(view, UnreadableImage) and len(done) > 1:
                raise UnreadableImage(f"image {number} of {len(done)}: {view}")
            if isinstance(view, BaseException):
                raise view
            views.append(np.frombuffer(view, np.uint8).reshape(3, size, size))
        return np.stack(views)

    async def thumbnail(self, path: str, pixels: int) -> bytes:
        """A JPEG of an image file, no side above `pixels`; UnreadableImage where it is none."""
        return await self._run(_thumbnail, path, pixels)

    async def _run(self, work: Callable[..., bytes], *arguments: Any) -> bytes:
        future = self._pool.schedule(work, args=arguments, timeout=self.seconds)
        try:
            return await asyncio.wrap_future(future)
        except TimeoutError:
            raise UnreadableImage(f"{NAME} took more than {self.seconds:g} s to decode") from None
        except ProcessExpired:
            raise UnreadableImage(f"{NAME} cannot be decoded: the decoder ended on it") from None

    def close(self) -> None:
        """End the processes."""
        self._pool.stop()
        self._pool.join()


def _begin(max_pixels: int) -> None:
    os.environ[PREFIX + "MAX_PIXELS"] = str(max_pixels)


def _ready() -> None:
    from mecoq_faiss.data import crop  # noqa: F401


def _view(content: bytes, size: int) -> bytes:
    from mecoq_faiss.data.crop import fixed_view

    return fixed_view(decode_image(content, draft=size, name=NAME), size).tobytes()


def _thumbnail(path: str, pixels: int) -> bytes:
    return small_jpeg(decode_image(path, draft=pixels, name=NAME), pixels, JPEG_QUALITY)
