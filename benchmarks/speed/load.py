"""A load generator: so many clients at once, each sending its next image as soon as it has its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

BOUNDARY = "mecoq-faiss-load"


def forms(images: Sequence[bytes], k: int) -> list[bytes]:
    """The bodies of searches, one an image."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="k"\r\n\r\n{k}\r\n--{BOUNDARY}\r\n'
    head += 'Content-Disposition: form-data; name="images"; filename="query.jpg"\r\n\r\n'
    return [head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode() for image in images]


def load(url: str, bodies: Sequence[bytes], clients: int, seconds: float, warm_up: float = 1.0) -> dict[str, Any]:
    """Rate, latencies in ms and failures of searches from so many clients, after some seconds that do not count."""
    return asyncio.run(_load(url, bodies, clients, seconds, warm_up))


async def _load(url: str, bodies: Sequence[bytes], clients: int, seconds: float, warm_up: float) -> dict[str, Any]:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    begin = time.perf_counter() + warm_up
    end, latencies, failures = begin + seconds, [], 0

    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, headers=headers) as client:

        async def one(number: int) -> None:
            nonlocal failures
            while (started := time.perf_counter()) < end:
                answer = await client.post("/search", content=bodies[number % len(bodies)])
                number += clients
                if started >= begin:
                    latencies.append(time.perf_counter() - started)
                    failures += answer.status_code != 200

        await asyncio.gather(*(one(number) for number in range(clients)))
    elapsed = time.perf_counter() - begin
    p50, p99 = (float(q) for q in np.quantile(latencies, (0.5, 0.99)) * 1000)
    return {"per_s": len(latencies) / elapsed, "p50_ms": p50, "p99_ms": p99, "failures": failures}
