"""When are codebooks to be trained again? Bundles of some classes, new items of the same ones and of unseen ones.

python -m benchmarks.drift --data cifar10=features.h5 --data digits

A file of features has labels; `digits` is scikit-learn's. For each choice of unseen classes a model is trained on half
of the images of the others. The bundle holds these images, or as many that were not trained on; new items are drawn of
the rest. The result, benchmarks/results/drift.json, has one row a kind of new items, with what `measure_drift` gives
(mean, smallest, largest) and how often its verdict is to train again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mecoq_faiss import ModelConfig, TrainConfig, load_encoder, train
from mecoq_faiss.bundle.drift import measure_drift, verdict
from mecoq_faiss.bundle.encoded import quantization_error

RESULT = Path(__file__).parent / "results" / "drift.json"
KINDS = {"same classes": 0.0, "one known class": 0.0, "1/4 unseen": 0.25, "1/2 unseen": 0.5, "unseen classes": 1.0}
COUNTS = (30, 100, 300)
UNSEEN, EPOCHS = 3, 30
SHOWN = (
    "error_new", "error_old", "auc", "auc_low", "divergence", "divergence_noise", "score_new", "score_old", "farther",
    "farther_low", "outlying", "outlying_low",
)  # fmt: skip


def read(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, F) and labels (n,)."""
    if data == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return x.astype(np.float32), y
    with h5py.File(data) as file:
        return file["features"][:], file["labels"][:]


def run(x: np.ndarray, y: np.ndarray, nbytes: int, split: int, draws: int) -> list[dict[str, Any]]:
    """One choice of unseen classes: train, and measure draws of new items."""
    rng = np.random.default_rng(split)
    unseen = rng.permutation(int(y.max()) + 1)[:UNSEEN]
    rows = rng.permutation(len(x))
    known, strange = rows[~np.isin(y[rows], unseen)], rows[np.isin(y[rows], unseen)]
    trained, other, rest = np.split(known, [len(known) * 2 // 5, len(known) * 4 // 5])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with h5py.File(path / "x.h5", "w") as file:
            file["features"] = x[trained]
        model = ModelConfig(backbone="features", weights="none", feature_dim=x.shape[1], M=nbytes)
        train(path / "x.h5", path / "run", model, TrainConfig(seed=split, epochs=EPOCHS))
        encoder = load_encoder(path / "run")
    codebooks = encoder.model.quantizer.unit_codebooks().detach().cpu().numpy()
    z = encoder.encode(x)
    codes = encoder.codes(z)
    error = quantization_error(codebooks, codes, z)
    found = []
    for (held, old), count, kind, draw in itertools.product(
        (("trained", trained), ("other", other)), COUNTS, KINDS, range(draws)
    ):
        pick = np.random.default_rng((split, count, draw))
        of_strange = round(count * KINDS[kind])
        one = pick.permutation(np.unique(y[rest]))[0]
        usual = rest[y[rest] == one] if kind == "one known class" else rest
        if count - of_strange > len(usual) or of_strange > len(strange):
            continue
        same = pick.choice(usual, count - of_strange, replace=False)
        new = np.concatenate([same, pick.choice(strange, of_strange, replace=False)])
        drift = measure_drift(codebooks, codes[old], error[old], codes[new], error[new])
        key = {"bytes": nbytes, "bundle": held, "new": count, "kind": kind}
        found.append(key | {"split": split, "retrain": verdict(drift)[0]} | {name: drift[name] for name in SHOWN})
    return found


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a kind of new items."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        groups[tuple(row[name] for name in ("data", "bytes", "bundle", "new", "kind"))].append(row)
    rows = []
    for key, members in groups.items():
        row = dict(zip(("data", "bytes", "bundle", "new", "kind"), key, strict=True))
        row |= {"repeats": len(members), "retrain": sum(member["retrain"] for member in members)}
        for name in SHOWN:
            values = [member[name] for member in members]
            row[name] = [round(float(f(values)), 4) for f in (np.mean, np.min, np.max)]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", required=True, help="NAME=FILE of features, or digits")
    parser.add_argument("--splits", type=int, default=2, help="choices of unseen classes")
    parser.add_argument("--first", type=int, default=0, help="number of the first choice")
    parser.add_argument("--draws", type=int, default=4, help="of new items of each kind")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--every", type=Path, help="also write every single draw")
    arguments = parser.parse_args()
    found = []
    for data in arguments.data:
        name, _, path = data.rpartition("=")
        x, y = read(path)
        for nbytes, split in itertools.product((4, 8), range(arguments.first, arguments.first + arguments.splits)):
            found += [{"data": name or path} | row for row in run(x, y, nbytes, split, arguments.draws)]
            print(data, nbytes, split, len(found), flush=True)
    content = {
        "splits": arguments.splits,
        "first": arguments.first,
        "draws": arguments.draws,
        "values": "mean, smallest, largest",
    }
    arguments.out.write_text(json.dumps(content | {"rows": summary(found)}, indent=1) + "\n", encoding="utf-8")
    if arguments.every:
        arguments.every.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
