"""Who may do what, and how often: dependencies of routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from mecoq_faiss.service.keys import Key, find_key
from mecoq_faiss.service.state import State


async def reader(request: Request) -> Key | None:
    """The client's key, None where none is needed; HTTPException 401 without a right one."""
    state: State = request.app.state.service
    if state.keys is None:
        return None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    key = find_key(state.keys, given.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise HTTPException(401, "give a key: Authorization: Bearer KEY", {"www-authenticate": "Bearer"})
    return key


async def searcher(request: Request, key: Annotated[Key | None, Depends(reader)]) -> None:
    """A client that may search now; HTTPException 429 for one that asks too often."""
    state: State = request.app.state.service
    who = key.name if key else request.client.host if request.client else "unknown"
    seconds = state.wait_seconds(who)
    if seconds is not None:
        raise HTTPException(429, f"too many requests: {state.rate} are taken", {"retry-after": f"{seconds:.0f}"})


async def writer(request: Request, key: Annotated[Key | None, Depends(reader)]) -> None:
    """A client whose key may change bundles; HTTPException 403 for others."""
    if key is None or key.right != "write":
        raise HTTPException(403, "changes need a key with the right to write: start the service with --api-keys")
    await searcher(request, key)
