"""A load of many clients at once, each sending its next search as soon as it has its answer, by Apache's `ab`.

`ab` (in Debian's apache2-utils) is written in C: a client in Python takes as much of the machine as the service itself.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from pathlib import Path

BOUNDARY = "mecoq-faiss-load"


def form(image: bytes, k: int) -> bytes:
    """The body of a search."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="k"\r\n\r\n{k}\r\n--{BOUNDARY}\r\n'
    head += 'Content-Disposition: form-data; name="images"; filename="query.jpg"\r\n\r\n'
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def load(url: str, image: bytes, k: int, clients: int, seconds: float) -> dict[str, float]:
    """Searches a second, latencies in ms and failures of so many clients that send one image again and again."""
    if shutil.which("ab") is None:
        raise OSError("this benchmark needs `ab`: install apache2-utils")
    with tempfile.TemporaryDirectory() as folder:
        body, percentiles = Path(folder) / "body", Path(folder) / "percentiles.csv"
        body.write_bytes(form(image, k))
        command = ["ab", "-k", "-q", "-c", str(clients), "-t", f"{seconds:.0f}", "-n", "10000000", "-p", str(body)]
        command += ["-T", f"multipart/form-data; boundary={BOUNDARY}", "-e", str(percentiles), f"{url}/search"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        with open(percentiles, encoding="utf-8") as file:
            times = {int(row[0]): float(row[1]) for row in list(csv.reader(file))[1:]}
    lines = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    failures = int(lines["Failed requests"]) + int(lines.get("Non-2xx responses", "0"))
    per_s = float(lines["Requests per second"].split()[0])
    return {"per_s": per_s, "p50_ms": times[50], "p99_ms": times[99], "failures": failures}
