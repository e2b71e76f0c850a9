"""API keys: a file of their SHA-256 sums and rights; the keys themselves are kept nowhere.

A line of the file is `NAME RIGHT SHA256`, RIGHT being `read` or `write` (which may read too); `#` begins a comment.
Keys have 256 random bits, so a plain hash of them cannot be guessed back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from mecoq_faiss.storage.files import read_small, replacing

RIGHTS = ("read", "write")
LINE = re.compile(rf"([\w.-]+)\s+({'|'.join(RIGHTS)})\s+([0-9a-f]{{64}})")


class Key(NamedTuple):
    """One key: whose it is, what it allows, and its hash."""

    name: str
    right: str
    digest: bytes


def read_keys(path: str | Path) -> list[Key]:
    """The keys of a file; ValueError names a line that is none, or a file without any."""
    keys = []
    for number, line in enumerate(read_small(path).decode("utf-8", "replace").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = LINE.fullmatch(text)
        if found is None:
            raise ValueError(f"{path}, line {number}: give NAME read|write SHA256, as `serve --add-key` writes it")
        keys.append(Key(found[1], found[2], bytes.fromhex(found[3])))
    if not keys:
        raise ValueError(f"{path} holds no key: add one with `serve --add-key NAME --api-keys {path}`")
    return keys


def add_key(path: str | Path, name: str, right: str) -> str:
    """Add a new key to a file, which is made where it is missing (readable by its owner only); the key.

    Raises ValueError for a name that is there already or has odd characters.
    """
    path = Path(path)
    before = read_keys(path) if path.exists() else []
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"the key's name {name!r} has other characters than letters, digits, '.', '-' and '_'")
    if any(key.name == name for key in before):
        raise ValueError(f"{path} has a key named {name!r}: choose another name, or delete its line")
    key = secrets.token_urlsafe(32)
    text = path.read_text(encoding="utf-8") if before else "# NAME RIGHT SHA256\n"
    line = f"{name} {right} {hashlib.sha256(key.encode()).hexdigest()}\n"
    with replacing(path) as temporary:
        temporary.write_text((text if text.endswith("\n") else text + "\n") + line, encoding="utf-8")
    path.chmod(0o600)
    return key


def find_key(keys: list[Key], given: str) -> Key | None:
    """The key that was given, or None; the time that it takes does not tell how near a wrong one is."""
    digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
    found = None
    for key in keys:  # all of them, always
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found
