"""Finished parts of an experiment, one JSON file each: a stopped benchmark continues at the first missing one."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mecoq_faiss.runtime.environment import environment
from mecoq_faiss.storage.files import write_text

Result = dict[str, Any]


class Cells:
    """The folder `out`/cells.

    Args:
        out: where an experiment's results go.
        common: what every result depends on, such as data and backbone.
    """

    def __init__(self, out: Path, common: dict[str, Any]) -> None:
        self.out, self.common = out, common
        (out / "cells").mkdir(parents=True, exist_ok=True)

    def get(self, name: str, settings: dict[str, Any], compute: Callable[[], Result]) -> Result:
        """The result of `compute()`, or what an earlier run wrote under the same name, settings and common part."""
        key = json.loads(json.dumps({"name": name, "settings": settings, **self.common}))
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        slug = "".join(c if c.isalnum() or c in "-." else "_" for c in name)
        path = self.out / "cells" / f"{slug}-{digest}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["result"]
        started = time.monotonic()
        result = compute()
        seconds = time.monotonic() - started
        print(f"{name}: {_brief(result)}  {seconds:.0f} s", flush=True)
        write_text(path, json.dumps({"key": key, "seconds": seconds, "result": result}) + "\n")
        return json.loads(json.dumps(result))

    def write(self, name: str, content: Result) -> None:
        """`out`/NAME.json: an experiment's collected results, with data, machine and versions."""
        content = {"experiment": name, **self.common, "environment": environment(), **content}
        text = json.dumps(content, indent=1)
        text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)  # innermost lists on one line
        write_text(self.out / f"{name}.json", text + "\n")


def _brief(result: Result) -> str:
    return f"MAP {100 * result['map']:.2f}" if "map" in result else "done"
