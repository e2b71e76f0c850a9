"""Figures 2, 3, 8 and 9 of the paper: what is computed for each; `draw` makes the pictures from the JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.paper import hashing
from benchmarks.paper.cells import Cells, Result
from benchmarks.paper.data import Data
from benchmarks.paper.experiment import Settings, default_settings, fit, held_out_map, paper_settings
from mecoq_faiss.backbone.fixed_features import fixed_features
from mecoq_faiss.comparison.contenders import embed_features, learned_contender
from mecoq_faiss.training.objective import Objective

PLAIN = {"positive_prior": 0.0, "memory_size": 0}  # Figures 2 and 3: contrastive learning and nothing else
CONDITIONS: dict[str, dict[str, Any]] = {  # Figure 2: what may bring the degeneration about
    "paper's settings": {},
    "codebooks' rate x 10": {"codebook_lr_scale": 10.0},
    "codebooks' rate x 100": {"codebook_lr_scale": 100.0},
    "codebooks' rate x 1000": {"codebook_lr_scale": 1000.0},
    "codewords from data": {"codebook_init": "data"},
    "ten times the steps": {"epochs": 500},
    "four layers learn, 20 epochs": {"trainable_layers": 4, "epochs": 20},
    "four layers learn, 20 epochs, codebooks' rate x 100": {
        "trainable_layers": 4, "epochs": 20, "codebook_lr_scale": 100.0
    },
    "four layers learn, 20 epochs, with the memory": {
        "trainable_layers": 4, "epochs": 20, "memory_size": 384, "memory_start_epoch": 6
    },
}  # fmt: skip
HELD_IMAGES = 5000  # of the held-out ones, where the backbone learns and each epoch's features are new
MAP_EVERY, DRIFT_IMAGES, TSNE_IMAGES, TOP = 5, 1000, 2000, 10


def fig2(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """Degeneration: MAP on held-out images, loss and similarity of codewords by epoch, with and without Omega."""
    rows = []
    for condition, change in CONDITIONS.items():
        learning = change.get("trainable_layers", 0)
        if learning and data.net["backbone"] == "pixels":  # which has no layers
            continue
        for weight in (0.5,) if change.get("memory_size") else (0.0, 0.5):
            s = paper_settings(data, 32, **PLAIN | change, diversity_weight=weight)
            if learning:
                s |= data.net | {"trainable_layers": learning}
            result = cells.get(f"degeneration {condition} gamma {weight}", s, partial(_degeneration, data, s))
            rows.append({"condition": condition, "diversity_weight": weight, **result})
    cells.write("fig2", {"rows": rows})


def _degeneration(data: Data, settings: Settings) -> Result:
    maps: list[tuple[int, float]] = []
    learns = settings["trainable_layers"] > 0
    every = max(MAP_EVERY, settings["epochs"] // 10)

    def watch(epoch: int, objective: Objective) -> None:
        if epoch % every == 0:
            maps.append((epoch, held_out_map(objective.model, _as_seen(objective, data) if learns else data)))

    _, epochs = fit(data.train if learns else data.views, settings, watch)
    names = ("contrastive", "codeword_similarity", "codeword_usage", "quantization_error")
    return {"map": maps[-1][1], "maps": maps} | {name: [record[name] for record in epochs] for name in names}


def _as_seen(objective: Objective, data: Data) -> Data:
    """A seeded part of the held-out images, with the features that the backbone gives them now."""
    rows = np.sort(np.random.default_rng(0).permutation(data.held)[:HELD_IMAGES])
    backbone, size = objective.model.backbone, objective.model.config.image_size
    with tempfile.TemporaryDirectory() as folder:
        x = np.array(fixed_features(data.database.subset(rows), backbone, size=size, folder=Path(folder))[0])
    objective.train()
    k = round(data.k * len(rows) / len(data.xb))
    return replace(data, xb=x, yb=data.yb[rows], held=np.arange(len(rows)), k=k)


def fig3(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """Feature drift between epochs (Eq. 11) of embeddings, soft and hard reconstructions; quantization error."""
    rows = []
    for recipe, base in (
        ("paper's settings", paper_settings(data, 32)),
        ("default recipe", default_settings(32)),
    ):
        s = base | PLAIN
        rows.append({"recipe": recipe, **cells.get(f"drift {recipe}", s, partial(_drift, data, s))})
    cells.write("fig3", {"rows": rows})


def _drift(data: Data, settings: Settings) -> Result:
    chosen = np.random.default_rng(0).choice(len(data.xt), min(DRIFT_IMAGES, len(data.xt)), replace=False)
    x = torch.from_numpy(data.xt[chosen])
    snapshots: list[list[torch.Tensor]] = []
    errors: dict[str, list[float]] = {"soft": [], "hard": []}

    @torch.no_grad()
    def watch(epoch: int, objective: Objective) -> None:
        q = objective.model.quantizer
        z = objective.model.embed(x)
        unit = q.segments(z).flatten(1)
        soft, hard = q(z)[1], q.decode(q.encode(z))
        snapshots.append([unit, soft, hard])
        for name, z_hat in (("soft", soft), ("hard", hard)):
            errors[name].append(float((unit - z_hat).square().sum(dim=1).mean()))

    fit(data.views, settings, watch)
    drift = {
        name: [float((b[i] - a[i]).square().sum(dim=1).mean()) for a, b in pairwise(snapshots)]
        for i, name in enumerate(("original", "soft", "hard"))
    }
    return {"drift": drift, "quantization_error": errors}


def representations(data: Data, bits: int) -> dict[str, tuple[Any, Callable[[NDArray[Any]], NDArray[Any]]]]:
    """Filled index and what queries become, then deep representations, of the three methods of Figures 8 and 9."""
    model, _ = fit(data.views, default_settings(bits))
    learned = learned_contender(model, data.xb)
    heads = {name: hashing.fit_hashing(name, data.views, bits, 0) for name in ("Bi-half Net", "CIBHash")}
    return {
        **{name: (head.index(data.xb), head.queries) for name, head in heads.items()},
        "MeCoQ": (learned.index, learned.queries),
    }


def fig8(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """t-SNE of the representations of queries at 64 bits."""

    def compute() -> Result:
        from sklearn.manifold import TSNE

        rng = np.random.default_rng(0)
        chosen = np.sort(rng.choice(len(data.xq), min(TSNE_IMAGES, len(data.xq)), replace=False))
        x = data.xq[chosen]
        deep: dict[str, NDArray[Any]] = {}
        for name in ("Bi-half Net", "CIBHash"):
            head = hashing.fit_hashing(name, data.views, 64, 0)
            with torch.inference_mode():
                deep[name] = torch.tanh(head(torch.from_numpy(x))).numpy()
        deep["MeCoQ"] = embed_features(fit(data.views, default_settings(64))[0], x)
        points = {name: TSNE(random_state=0, init="pca").fit_transform(z) for name, z in deep.items()}
        return {"points": {n: np.round(p, 2).tolist() for n, p in points.items()}, "labels": data.yq[chosen].tolist()}

    result = cells.get("t-SNE", default_settings(64) | {"images": TSNE_IMAGES}, compute)
    cells.write("fig8", {"class_names": list(data.queries.class_names), **result})


def fig9(data: Data, cells: Cells, bits: Sequence[int], seeds: int) -> None:
    """The first ten images of one query of each of four classes, at 64 bits."""

    def compute() -> Result:
        _, firsts = np.unique(data.yq, axis=0, return_index=True)
        rows = np.sort(firsts)[:: max(1, len(firsts) // 4)][:4]
        found = {
            name: index.search(queries(data.xq[rows]), TOP)[1].tolist()
            for name, (index, queries) in representations(data, 64).items()
        }
        return {"queries": rows.tolist(), "found": found}

    result = cells.get("retrieved images", default_settings(64), compute)
    relevant = {
        name: [[bool(np.any(data.yq[q] == data.yb[i])) if data.yq.ndim == 1 else bool((data.yq[q] & data.yb[i]).any())
                for i in I] for q, I in zip(result["queries"], found, strict=True)]
        for name, found in result["found"].items()
    }  # fmt: skip
    cells.write("fig9", {"relevant": relevant, **result})
