"""Let a search return your own ids, such as a database's keys, in place of row numbers."""

import faiss
import numpy as np

from mecoq_faiss import export_index, load_encoder
from mecoq_faiss.data.sources import open_source

database = open_source("digits", "database")
keys = np.array([1_000_000 + 10 * row for row in range(len(database))])  # int64, one an image, all different

export_index("run", database, "bundle-ids", ids=keys)

encoder = load_encoder("bundle-ids")
index = faiss.read_index("bundle-ids/index.faiss")
D, I = index.search(encoder.encode(open_source("digits", "queries").open(0)), 5)
path_of = dict(zip(keys.tolist(), database.paths, strict=True))
for score, key in zip(D[0], I[0].tolist(), strict=True):
    print(f"{score:.4f}  {key}  {path_of[key]}")
