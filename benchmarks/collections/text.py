"""Embeddings of short texts: the definitions in WordNet as TF-IDF vectors, reduced to 256 dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.data import Embeddings

WIDTH, QUERIES, FEWEST_TEXTS = 256, 2000, 3  # a word of fewer texts is left out
CUT = 1000  # of MAP


def definitions(folder: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The definitions in WordNet's data files, and the number of the field (animals, motion, ...) of each."""
    texts, fields = [], []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.startswith("  "):  # the license
                facts, _, text = line.partition(" | ")
                texts.append(text)
                fields.append(int(facts.split()[1]))
    return texts, np.array(fields)


def of_texts(root: str) -> Embeddings:
    """Definitions drawn by seed are queries, all others the database and what is trained on."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, fields = definitions(Path(root))
    words = TfidfVectorizer(stop_words="english", sublinear_tf=True, min_df=FEWEST_TEXTS).fit_transform(texts)
    x = TruncatedSVD(WIDTH, random_state=0).fit_transform(words).astype(np.float32)
    kept = np.flatnonzero(np.linalg.norm(x, axis=1) > 0)
    order = np.random.default_rng(0).permutation(kept)
    rows_q, rows_b = np.sort(order[:QUERIES]), np.sort(order[QUERIES:])
    xb = x[rows_b]
    return Embeddings("text", xb, x[rows_q], fields[rows_q], xb, fields[rows_b], np.arange(len(xb)), CUT)
