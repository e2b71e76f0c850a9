"""The same commands, in another process and another folder, end in the same bytes; only times are of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mecoq_faiss.storage.files import sha256

SHAPE = "--backbone pixels --image-size 8 --epochs 2 --batch-size 30 --dim 32 --set hidden=32"
BEFORE = (
    f"train --data photos --out run {SHAPE}",
    "encode run --data photos --out codes.h5",
    "export-index run --data photos --out bundle --index ivfpq --nlist 2",
    "export-index run --codes codes.h5 --out again",
)
AFTER = ("update bundle --data photos", "update again --data photos", "update again --data photos --compact")
CHANGE = "change photos"
CHILD = f"""
import os, shutil, sys
from click.testing import CliRunner
from mecoq_faiss_cli.main import main
for line in sys.argv[1:]:
    if line == "{CHANGE}":
        for i in range(30):
            os.unlink(f"photos/{{i:03}}.png")
        os.rename("photos/100.png", "photos/moved.png")
        shutil.copy2("photos/101.png", "photos/new.png")
        continue
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 0, (line, result.output)
"""
TIMES = {"created", "updated", "time", "images_per_second"}


def without_times(value: Any) -> Any:
    """JSON without time stamps and durations."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if name not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def digests(folder: Path) -> dict[str, Any]:
    """File -> SHA-256 of everything that was made; of JSON what it says but for the times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith("photos/") or path.suffix == ".lock":
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [without_times(json.loads(line)) for line in lines]
        else:
            found[name] = sha256(path)
    return found


@pytest.fixture(scope="module")
def twice(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The commands run in two folders; between exports and updates the collection changes."""
    folders = [tmp_path_factory.mktemp("same") / name for name in ("one", "other-folder")]
    started = []
    for seed, folder in enumerate(folders):
        shutil.copytree(photos, folder / "photos")
        for path in (folder / "photos").iterdir():
            os.utime(path, ns=(10**18, 10**18))
        environment = os.environ | {"MECOQ_FAISS_CACHE": str(folder / "cache"), "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", CHILD, *BEFORE, CHANGE, *AFTER]
        started.append(subprocess.Popen(command, cwd=folder, env=environment))
    assert [process.wait(300) for process in started] == [0, 0]
    return folders


def test_every_file_is_the_same(twice: list[Path]) -> None:
    one, other = map(digests, twice)
    assert one == other
    ours = {re.sub(r"[-0-9a-f]{16,}|\d{6}", "*", name) for name in one}
    assert {
        "run/last.pt", "run/model.safetensors", "codes.h5", "bundle/index.faiss", "bundle/manifest.json",
        "bundle/items.h5", "again/index.faiss", "again/items.h5", "again/manifest.json",
    } <= ours  # fmt: skip
    manifest = one["again/manifest.json"][0]
    assert manifest["counts"]["items"] == 101 and len(manifest["history"]) == 2


def test_times_are_kept_apart(twice: list[Path]) -> None:
    """In manifests under their own names, in checkpoints, codes and indexes not at all."""
    manifest = json.loads((twice[0] / "bundle" / "manifest.json").read_text())
    assert {"created", "updated"} <= manifest.keys() and "time" in manifest["history"][0]
    assert without_times({"created": 1, "x": [{"time": 2, "y": 3}]}) == {"x": [{"y": 3}]}
