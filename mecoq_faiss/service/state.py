"""What the service holds: open bundles, their queues, decoders, pictures, keys and limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import faiss
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from mecoq_faiss.bundle.folder import MANIFEST, ONNX
from mecoq_faiss.bundle.opened import Bundle, open_bundle
from mecoq_faiss.service.batches import Batches
from mecoq_faiss.service.decoding import Decoder
from mecoq_faiss.service.keys import Key, read_keys
from mecoq_faiss.service.metrics import Metrics
from mecoq_faiss.service.pictures import Pictures
from mecoq_faiss.service.settings import Settings

logger = logging.getLogger("mecoq_faiss")


Opener = Callable[[Path, str, str], Bundle]  # of a folder, a device and a runtime


class Served(NamedTuple):
    """One bundle."""

    name: str
    bundle: Bundle
    batches: Batches


class State:
    """Everything that requests share; opened before the first, closed after the last.

    Raises the errors of `open_bundle`, of `read_keys`, and ValueError for a rate that is none.
    """

    def __init__(self, settings: Settings, opener: Opener = open_bundle) -> None:
        self.settings = settings
        self.keys: list[Key] | None = None if settings.api_keys is None else read_keys(settings.api_keys)
        try:
            self.rate = None if settings.rate is None else parse(settings.rate)
        except ValueError as error:
            raise ValueError(f"--rate {settings.rate!r} is none: write for example 60/minute or 5/second") from error
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self.metrics = Metrics()
        self.served: dict[str, Served] = {}
        for path in settings.bundles:
            bundle = opener(path, settings.device, runtime_for(path, settings))
            name = _unused(Path(path).resolve().name, self.served)
            self.served[name] = Served(name, bundle, Batches(bundle, self.metrics, settings.waiting))
            self.metrics.items.labels(name).set(len(bundle))
        self.decoder = Decoder(settings.decoders, settings.seconds / 3, settings.max_pixels)
        self.pictures = None if settings.images is None else Pictures(settings.images, self.decoder)
        self.writing = asyncio.Lock()
        self.ready = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to answer; called where the event loop runs."""
        for served in self.served.values():
            served.batches.start()
        self._tasks = [asyncio.create_task(work) for work in (self._warm(), self._follow())]

    async def stop(self) -> None:
        """Answer what was begun, and let go of everything."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for served in self.served.values():
            await served.batches.stop()
            served.bundle.close()
        await asyncio.to_thread(self.decoder.close)

    def wait_seconds(self, who: str) -> float | None:
        """Count a request of a client; None where it may go on, else how long it is to wait."""
        if self.rate is None or self._limiter.hit(self.rate, who):
            return None
        return float(self.rate.get_expiry())

    def without_paths(self, text: str) -> str:
        """A message that names no folder of this machine."""
        named = [(served.bundle.path, name) for name, served in self.served.items()]
        for path, name in [*named, *([] if self.pictures is None else [(self.pictures.root, "images")])]:
            for spelled in {str(path.resolve()), str(path)} - {".", "/"}:
                text = text.replace(spelled, name)
        return text

    async def _warm(self) -> None:
        """Have the decoders started before the first client waits for them."""
        await self.decoder.started()
        self.ready = True

    async def _follow(self) -> None:
        """Take up what is put in a bundle's place; a damaged one is left alone, and said."""
        seen = {name: _signature(served.bundle.path) for name, served in self.served.items()}
        while True:
            await asyncio.sleep(self.settings.watch)
            for name, served in self.served.items():
                now = _signature(served.bundle.path)
                if now is None or now == seen[name]:
                    continue
                try:
                    await self.taken_up(served, await asyncio.to_thread(served.bundle.reload))
                except (OSError, ValueError) as error:
                    logger.warning("%s stays as it was: what has taken its place cannot be opened: %s", name, error)
                seen[name] = now

    async def taken_up(self, served: Served, another: bool = True) -> None:
        """Count a new generation."""
        if another:
            self.metrics.items.labels(served.name).set(len(served.bundle))
            self.metrics.generations.labels(served.name).inc()
            logger.info("%s: %d items", served.name, len(served.bundle))


def runtime_for(bundle: Path, settings: Settings) -> str:
    """What computes the queries of a bundle."""
    if settings.runtime != "auto":
        return settings.runtime
    on_cpu = settings.device == "cpu" or (settings.device == "auto" and not faiss.get_num_gpus())
    return "onnx" if on_cpu and (bundle / ONNX).is_file() and find_spec("onnxruntime") else "torch"


def _unused(name: str, taken: dict[str, Served]) -> str:
    number = 2
    unused = name = name or "bundle"
    while unused in taken:
        unused, number = f"{name}-{number}", number + 1
    return unused


def _signature(bundle: Path) -> tuple[int, int, int] | None:
    try:
        stat = (bundle / MANIFEST).stat()
    except OSError:
        return None  # another is just being put in its place
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
