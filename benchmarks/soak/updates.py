"""A thousand updates in a row of a small bundle: what it takes stays what its items take, and so does the time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.soak.gauge import Gauge
from mecoq_faiss import ModelConfig, TrainConfig, export_index, train, update
from mecoq_faiss.bundle.folder import pinned
from mecoq_faiss.bundle.items import items_in

UPDATES, IMAGES, CHANGED = 1000, 200, 3
SIDE = 8


def run(folder: Path, updates: int = UPDATES, images: int = IMAGES) -> dict[str, Any]:
    """What is there after each update, first and last; and whether the end is that of a fresh export."""
    photos, bundle = folder / "photos", folder / "bundle"
    photos.mkdir()
    collection = Collection(photos, images)
    make_bundle(photos, folder / "run", bundle)
    gauge, seconds, files, disk, segments, manifests = Gauge(), [], [], [], [], []
    for number in range(updates):
        collection.change(CHANGED)
        started = time.perf_counter()
        done = update(bundle, photos, workers=0, device="cpu")
        seconds.append(time.perf_counter() - started)
        assert (done["added"], done["removed"], done["renamed"]) == (CHANGED, CHANGED, CHANGED), done
        there = [path for path in folder.rglob("*") if path.is_file() and photos not in path.parents]
        files.append(len(there))
        manifests.append((bundle / "manifest.json").stat().st_size)
        disk.append(sum(path.stat().st_size for path in there) - manifests[-1])
        segments.append(len(list(bundle.glob("items*.h5"))))
        gauge.sample(number + 1)
    fresh = folder / "fresh"
    export_index(folder / "run", photos, fresh, workers=0, device="cpu")
    tenth = max(1, updates // 10)
    return {
        "updates": updates, "items": images, "equal to a fresh export": codes_by_path(bundle) == codes_by_path(fresh),
        "files": [files[0], max(files), files[-1]], "segments": [segments[0], max(segments), segments[-1]],
        "disk_mb": [round(value / 1e6, 3) for value in (disk[0], max(disk), disk[-1])],
        "manifest_kb": [round(value / 1e3, 1) for value in (manifests[0], max(manifests), manifests[-1])],
        "time of the last tenth / first": round(float(np.median(seconds[-tenth:]) / np.median(seconds[:tenth])), 2),
        **gauge.growth(),
    }  # fmt: skip


class Collection:
    """A folder of small pictures of which some come, some go and some get other names; their number stays."""

    def __init__(self, folder: Path, n: int, seed: int = 0) -> None:
        self.folder, self._rng, self._made = folder, np.random.default_rng(seed), 0
        self.names = [self._make() for _ in range(n)]

    def _make(self) -> str:
        self._made += 1
        small = Image.fromarray(self._rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        name = f"{self._made:06}.png"
        small.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(self.folder / name)
        return name

    def change(self, count: int) -> None:
        """So many are removed, renamed and added."""
        chosen = self._rng.permutation(self.names)[: 2 * count].tolist()
        for name in chosen[:count]:
            (self.folder / name).unlink()
        renamed = [f"renamed-{self._made:06}-{name[-10:]}" for name in chosen[count:]]
        for old, new in zip(chosen[count:], renamed, strict=True):
            (self.folder / old).rename(self.folder / new)
        kept = [name for name in self.names if name not in set(chosen)]
        self.names = kept + renamed + [self._make() for _ in range(count)]


def make_bundle(photos: Path, run_folder: Path, bundle: Path) -> None:
    """Train for a moment, and export."""
    model = ModelConfig(backbone="pixels", image_size=SIDE, M=4, D=32, hidden=32)
    train(photos, run_folder, model, TrainConfig(epochs=1, batch_size=20, cached_views=2))
    export_index(run_folder, photos, bundle, workers=0, device="cpu")


def codes_by_path(bundle: Path) -> dict[str, bytes]:
    """Path -> code of every item."""
    with pinned(bundle) as files, items_in(files) as items:
        return dict(zip(items.all_paths().tolist(), map(bytes, items.codes), strict=True))
