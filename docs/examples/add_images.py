"""Add new images to an exported index. What was added to is kept in a file of your own, outside the bundle."""

import faiss
import numpy as np

from mecoq_faiss import load_encoder
from mecoq_faiss.data.sources import open_source

encoder = load_encoder("bundle")
index = faiss.read_index("bundle/index.faiss")
before = index.ntotal

new = open_source("digits", "queries")
index.add(encoder.encode([new.open(i) for i in range(len(new))]))  # the codebooks stay as they are
faiss.write_index(index, "grown.faiss")

grown = faiss.read_index("grown.faiss")
D, I = grown.search(encoder.encode(new.open(0)), 5)
names = np.array([*open_source("digits", "database").paths, *new.paths])
print(f"{before} items, now {grown.ntotal}")
for score, row in zip(D[0], I[0], strict=True):
    print(f"{score:.4f}  {row}  {names[row]}")
