"""Serve bundles until the process is told to end."""

from __future__ import annotations

import ipaddress
import logging
import os
from typing import TYPE_CHECKING

import faiss

from mecoq_faiss.bundle.opened import open_bundle
from mecoq_faiss.service.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mecoq_faiss.service.state import Opener

logger = logging.getLogger("mecoq_faiss")


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000, opener: Opener | None = None) -> None:
    """Answer HTTP at host and port, until SIGINT or SIGTERM; requests that were begun are answered first.

    Bundles are opened by `opener`, by default `open_bundle`.

    Raises the errors of `open_bundle`, ImportError naming the extra where it is not installed, ValueError for settings
    that are none.
    """
    try:
        import uvicorn  # noqa: F401

        from mecoq_faiss.service.app import create_app
    except ImportError as error:
        raise ImportError(f"serving needs more packages ({error.name}): pip install 'mecoq-faiss[serve]'") from error
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(os.cpu_count() or 1)  # of the one thread that searches, and of onnxruntime
    try:
        app = create_app(settings, opener or open_bundle)
        _answer(app, settings, host, port)
    finally:
        faiss.omp_set_num_threads(threads)


def _answer(app: FastAPI, settings: Settings, host: str, port: int) -> None:
    import uvicorn

    if not is_loopback(host) and settings.api_keys is None:
        logger.warning("anyone who reaches %s:%d may search: give --api-keys, or --host 127.0.0.1", host, port)
    elif is_loopback(host):
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        # a page of others may point a name of its own here, and would read what this machine's user may
        names = ["localhost", "127.0.0.1", "[::1]", host]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    shown = f"[{host}]" if ":" in host else host
    logger.info("http://%s:%d/ serves %s", shown, port, ", ".join(str(path) for path in settings.bundles))
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False, timeout_keep_alive=30)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
