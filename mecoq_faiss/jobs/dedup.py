"""The whole job of finding a bundle's duplicates: groups of items that show nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mecoq_faiss.bundle.duplicates import COSINE, NEAR, Duplicate, find_groups
from mecoq_faiss.bundle.embedding import check_fits, embed_batches
from mecoq_faiss.bundle.encoder import encoder_in
from mecoq_faiss.bundle.items import items_of_all, stored
from mecoq_faiss.bundle.sharded import pinned_shards
from mecoq_faiss.bundle.stored_config import read_model_config
from mecoq_faiss.bundle.stored_index import index_in
from mecoq_faiss.bundle.torch_encoder import TorchEncoder
from mecoq_faiss.data.sources import Source, as_source
from mecoq_faiss.index.codes import directions
from mecoq_faiss.index.inspect import read_codebooks
from mecoq_faiss.storage.files import check_writable_parent


def dedup(
    bundle: str | Path,
    images: str | Path | Source | None = None,
    threshold: float | None = None,
    *,
    cosine: float = COSINE,
    workers: int = -1,
    device: str | torch.device = "auto",
) -> list[list[Duplicate]]:
    """Find groups of duplicates in a bundle.

    Two items are duplicates where their content (SHA-256) is equal, or where their codes stand for vectors whose score
    (AQS) reaches the threshold. Codes are coarse: with `images`, the items that codes bring together are encoded again,
    and only pairs that the embeddings confirm remain. A group holds what such pairs join, directly or through others.
    Near the greatest threshold only codes that are near in one of their segments are compared; at a low one every
    different code is compared with every other.

    Of additive codes a score is the cosine of the sums that the codes stand for, from -1 to 1, and of embeddings their
    cosine: by it vectors that differ in length alone are duplicates, also where the codes preserve inner products or
    L2 (there of the features about their mean).

    Args:
        bundle: its folder.
        images: the collection, a source or its name (of a model of features: their file), whose paths are the items'.
            What is not in it, or cannot be read, is a duplicate by equal content only.
        threshold: from -M to M; by default 0.98 * M, the same mean over the segments as `cosine`. At M = 8 one segment
            may then differ, by a codeword of cosine 0.84. With `images` a lower one finds more, and takes longer. Of
            additive codes from -1 to 1, by default 0.98.
        cosine: with `images`, the least mean inner product of the embeddings' segments, above 0 and at most 1; of
            additive codes the least cosine.
        workers: processes that decode images; -1 chooses.
        device: where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..., or a torch.device.

    Returns:
        The groups, by their lowest ids; each has two items (`Duplicate`) or more, by id.

    Raises:
        FileNotFoundError: no bundle or no images there.
        ValueError: a threshold out of range, or images that hold none of the items or do not fit the model.

    Example:
        >>> from mecoq_faiss import dedup
        >>> [[item.path for item in group] for group in dedup("bundle-twice", "photos-twice")]
        [['0.png', 'copy.png']]
    """
    with pinned_shards(Path(bundle)) as (_, shards), items_of_all(shards) as items:
        config, codebooks = read_model_config(shards[0]), read_codebooks(index_in(shards[0]))
        additive = config.codes == "additive"
        most = 1 if additive else config.M
        threshold = NEAR * most if threshold is None else threshold
        if not -most <= threshold <= most:
            raise ValueError(
                f"threshold={threshold} is out of range: scores lie between {-most} and {most}, choose near {most}"
            )
        if not 0 < cosine <= 1:
            raise ValueError(f"cosine={cosine} is out of range: choose above 0 and at most 1")
        order = np.argsort(items.ids, kind="stable")
        ids, paths, hashes = items.ids[order], items.all_paths()[order], items.column("sha256")
        embed = None
        if images is not None:
            source, encoder = as_source(images, "database"), encoder_in(shards[0], device)
            check_fits(encoder, source)
            embed = _Embed(encoder, source, paths.tolist(), workers)
        if config.metric == "l2":
            codebooks = codebooks[..., :-1]  # the last coordinate is half of a squared norm
        found = find_groups(
            codebooks,
            np.asarray(items.codes)[order],
            None if hashes is None else np.asarray(hashes)[order],
            threshold, embed, cosine, additive,
        )  # fmt: skip
    return [
        [
            Duplicate(int(ids[row]), str(paths[row]), float(score), bool(exact))
            for row, score, exact in zip(*group, strict=True)
        ]
        for group in found
    ]


def write_page(
    path: str | Path, bundle: str | Path, groups: list[list[Duplicate]], images: str | Path | Source | None = None
) -> None:
    """Write groups of a bundle's duplicates as one HTML page, with pictures of `images`; ImportError without Jinja2."""
    from mecoq_faiss.comparison.duplicates import write_duplicates

    source = None if images is None else as_source(images, "database")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_duplicates(Path(path), str(bundle), groups, source)


def check_page(path: str | Path) -> None:
    """Raise, before any work, what would keep `write_page` from writing there."""
    import mecoq_faiss.comparison.duplicates  # noqa: F401

    check_writable_parent(Path(path))


class _Embed:
    """Embeddings of a bundle's items by row, encoded anew from a source that has their paths; unit segments."""

    def __init__(self, encoder: TorchEncoder, source: Source, paths: Sequence[str], workers: int) -> None:
        self._encoder, self._source, self._workers = encoder, source, workers
        row_of = {stored(path): row for row, path in enumerate(source.paths)}
        self._rows = np.array([row_of.get(path, -1) for path in paths], np.int64)
        if (self._rows < 0).all():
            raise ValueError(
                f"{source.name} has no item of the bundle, such as {paths[0]!r}: give the collection's root"
            )

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows (m,) -> (m, D) float32, zeros where there is no readable image."""
        wanted = self._rows[rows]
        z = np.zeros((len(rows), self._encoder.model.config.D), np.float32)
        there = np.flatnonzero(wanted >= 0)
        if len(there):
            for read, vectors in embed_batches(self._encoder, self._source.subset(wanted[there]), 0, self._workers):
                z[there[read]] = vectors[:, : z.shape[1]]  # of additive codes they come M times
        if not self._encoder.is_additive:
            return z
        return directions(z[:, :-1] if self._encoder.model.config.metric == "l2" else z)
