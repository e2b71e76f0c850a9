"""Search a bundle as an application does: plain FAISS, and the encoder for the queries."""

import faiss
import h5py

import mecoq_faiss
from mecoq_faiss.data.sources import open_source

query = open_source("digits", "queries").open(0)  # a PIL image; a path, bytes or an array will do as well

encoder = mecoq_faiss.load_encoder("bundle")
index = faiss.read_index("bundle/index.faiss")
D, I = index.search(encoder.encode(query), 5)

with h5py.File("bundle/items.h5") as items:
    paths = items["paths"].asstr()[:]
for score, row in zip(D[0], I[0], strict=True):
    print(f"{score:.4f}  {row}  {paths[row]}")
