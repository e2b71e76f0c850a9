"""Lists joined on disk against one build of all codes."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index, read_ids, save_index
from mecoq_faiss.index.joined import join_lists
from tests.index.test_merged import made, one_and_shards

N = 300
LISTS: dict[str, Any] = {"nlist": 6, "nprobe": 2}


@pytest.mark.parametrize("own_ids", [False, True])
def test_they_are_those_of_one_build(tmp_path: Path, own_ids: bool) -> None:
    books, codes, xq = made(8, N, 12, 0)
    one, shards = one_and_shards(books, codes, "ivfpq", [7, 130], **LISTS)
    ids = np.random.default_rng(0).permutation(10 * N)[:N].astype(np.int64)
    if own_ids:
        centroids = faiss.downcast_index(one.quantizer).reconstruct_n(0, one.nlist)
        one, *shards = (
            build_index(books, codes[rows], "ivfpq", ids=ids[rows], centroids=centroids, nprobe=2)
            for rows in (slice(None), slice(0, 7), slice(7, 130), slice(130, N))
        )
    files = [tmp_path / f"{number}.faiss" for number in range(3)]
    for shard, file in zip(shards, files, strict=True):
        save_index(shard, file)

    join_lists(files, tmp_path / "joined.faiss")

    for file in files:
        file.unlink()  # nothing of them is needed
    joined = faiss.read_index(str(tmp_path / "joined.faiss"))
    assert (tmp_path / "joined.faiss.ivfdata").exists() and joined.ntotal == N
    for k in (1, 10, 100):
        for found, expected in zip(joined.search(xq, k), one.search(xq, k), strict=True):
            np.testing.assert_array_equal(found, expected)
    if own_ids:
        np.testing.assert_array_equal(read_ids(joined), ids)
    with pytest.raises(FileExistsError, match=r"joined\.faiss exists"):
        join_lists(files, tmp_path / "joined.faiss")


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    books, codes, _ = made(4, N, 12, 0)
    files = [tmp_path / "fast.faiss", tmp_path / "one.faiss", tmp_path / "other.faiss"]
    save_index(build_index(books, codes, "ivfpqfs", **LISTS), files[0])
    save_index(build_index(books, codes[:99], "ivfpq", **LISTS), files[1])
    save_index(build_index(books, codes[99:], "ivfpq", **LISTS), files[2])

    with pytest.raises(ValueError, match="only lists of the kind 'ivfpq'"):
        join_lists(files[:1], tmp_path / "out")
    with pytest.raises(ValueError, match="other codebooks or centroids"):
        join_lists(files[1:], tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.ivfdata").exists()
