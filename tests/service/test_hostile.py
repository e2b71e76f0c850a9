"""A thousand requests that mean harm: each is refused, and the service answers the next one as before."""

from __future__ import annotations

import base64
import json
import random
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from tests.service.conftest import Running

REQUESTS, THREADS = 1000, 8
WAIT = 20.0


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG of any size in its header, and of any content."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def images(rng: random.Random) -> bytes:
    """An image file that is none, or one that takes more than it seems to."""
    good = BytesIO()
    Image.fromarray(np.random.default_rng(rng.getrandbits(32)).integers(0, 255, (16, 16, 3), np.uint8)).save(
        good, rng.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
    )
    content = bytearray(good.getvalue())
    kind = rng.randrange(6)
    if kind == 0:
        return png(rng.choice([100_000, 2**31 - 1]), 100_000)
    if kind == 1:
        return png(7_000, 7_000, bytes(3))
    if kind == 2:
        return bytes(content[: rng.randrange(1, 12)])
    if kind == 3:
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    if kind == 4:
        return rng.randbytes(rng.randrange(300))
    return b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"


def form(rng: random.Random) -> tuple[str, bytes]:
    """A multipart body, whole or cut, with odd names and fields."""
    content = images(rng)
    name = rng.choice(["x.png", "../../etc/passwd", "a\\b", "\u202e.png", "x" * 3000, '"; k="1'])
    head = f'--B\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
    more = rng.choice([b"", b'\r\n--B\r\nContent-Disposition: form-data; name="k"\r\n\r\n-1', b"\r\n--B" * 2000])
    body = head + content + more + b"\r\n--B--\r\n"
    return "multipart/form-data; boundary=" + rng.choice(["B", "B", "C", ""]), body[: rng.choice([len(body), 40])]


def text(rng: random.Random) -> tuple[str, bytes]:
    """A JSON body, of wrong types, nested, with odd numbers."""
    image = base64.b64encode(images(rng)).decode()
    odd = [
        {"images": [image]}, {"images": image}, {"images": [[image]]}, {"images": [image] * 65}, {"images": None},
        {"images": [image], "where": "id = (SELECT 1)"}, {"images": [image], "where": "read_text('/etc/passwd') = ''"},
        {"images": [image], "k": 10**30}, {"images": [image], "k": "1; DROP"}, {"vectors": [["a"]]}, [], 1, "x",
        {"vectors": [[0.0] * 5]}, {"images": [image], "bundle": "../other"}, {"images": [image], "explain": "perhaps"},
    ]  # fmt: skip
    body = json.dumps(rng.choice(odd)).encode()
    raw = [body, body[:-3], b"[" * 5000, b'{"images": NaN}', b"\xff\xfe", b'{"a":' * 3000, b""]
    return "application/json", rng.choice(raw)


def request(rng: random.Random) -> bytes:
    """One request as it goes over the wire."""
    if rng.random() < 0.3:
        path = rng.choice(
            ["/items/../../etc/passwd", "/items/%2e%2e%2fetc/picture", "/items/-1", "/items/1e9", "/items/1%00/picture",
             "/items/1/picture?size=99999999", "/items/1/picture?size=-1", "/items/99/picture", "//etc/passwd",
             "/page/..%2f..%2fapp.py", "/page.css/../app.py", "/items/1/similar?k=0",
             "/items/1/similar?where=" + "(" * 3000, "/items/1?bundle=%2e%2e", "/x" * 2000]
        )  # fmt: skip
        extra = rng.choice(["", "Range: bytes=0-99999999999\r\n", "Range: bytes=../-\r\n", "If-None-Match: \x01\r\n"])
        method = rng.choice(["GET", "GET", "PUT", "TRACE", "DELETE"])
        return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}Connection: close\r\n\r\n".encode("latin-1")
    kind, body = (form if rng.random() < 0.6 else text)(rng)
    length = rng.choice([str(len(body))] * 6 + [str(len(body) + 50), "-1", "99999999999", "x"])
    head = f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    return (head + "Connection: close\r\n\r\n").encode("latin-1", "replace") + body


def answered(port: int, content: bytes) -> int:
    """The status of the answer; 0 where the service closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while len(received) < 12 and (part := connection.recv(4096)):
                received += part
        except ConnectionError:
            return 0
    return int(received[9:12]) if len(received) >= 12 else 0


def test_a_thousand_of_them(reading: Running, collection: Path) -> None:
    rng = random.Random(0)
    requests = [request(rng) for _ in range(REQUESTS)]
    with ThreadPoolExecutor(THREADS) as threads:
        statuses = list(threads.map(lambda content: answered(reading.port, content), requests))
    odd = [(s, r[:200]) for s, r in zip(statuses, requests, strict=True) if not (400 <= s < 500 or s == 0)]
    assert not odd
    assert statuses.count(0) < REQUESTS / 8  # bodies that were cut: nobody is left to be answered
    good = (collection / "photos/a/04.png").read_bytes()
    answer = reading.client.post("/search", files={"images": good}, data={"k": "1"})
    assert answer.status_code == 200 and answer.json()["results"][0]["hits"]


def test_no_answer_names_a_place_of_the_machine(reading: Running, collection: Path) -> None:
    for path in ("/items/0", "/service", "/metrics", "/openapi.json", "/items/0/similar", "/items/0?bundle=x"):
        assert str(collection) not in reading.client.get(path).text
    answer = reading.client.post("/search", files={"images": b"x"}, data={"where": "nope"})
    assert str(collection) not in answer.text
