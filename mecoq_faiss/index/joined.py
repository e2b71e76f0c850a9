"""The lists of several shards joined into those of one index, which stay on the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss.contrib.ondisk import merge_ondisk

from mecoq_faiss.index.build import with_ids
from mecoq_faiss.index.file import load_index, save_index
from mecoq_faiss.index.inspect import pq_core, read_ids, without_ids
from mecoq_faiss.index.merged import check_shards
from mecoq_faiss.index.part import fingerprint
from mecoq_faiss.storage.files import replacing

LISTS = ".ivfdata"  # what the name of the lists' file ends in


def join_lists(shards: Sequence[str | Path], out: str | Path) -> None:
    """Write one `ivfpq` index of the lists of shards, which `faiss.read_index` opens and searches from the disk.

    It is what one build of all codes with the same centroids gives, but that its lists lie in a file of their own
    beside it, `OUT.ivfdata`, by whose absolute path it finds them. Memory is that of the first shard, and where they
    return own ids, of these; the system pages the rest.

    Args:
        shards: their index files, in their order, of the same codebooks and centroids.
        out: the index file; refused where it, or its lists, exist.

    Raises:
        FileNotFoundError: no such index.
        FileExistsError: `out` is there.
        ValueError: another kind of index, or shards that do not belong together.
    """
    out, lists = Path(out), Path(f"{out}{LISTS}").absolute()
    for path in (out, lists):
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists: choose another name")
    opened = [load_index(shard) if number == 0 else load_index(shard, mmap=True) for number, shard in enumerate(shards)]
    cores = [pq_core(without_ids(index)) for index in opened]
    if not all(isinstance(core, faiss.IndexIVFPQ) and not core.by_residual for core in cores):
        raise ValueError("only lists of the kind 'ivfpq' can be joined on disk: export the shards as such")
    check_shards([fingerprint(index) for index in opened])
    all_ids = [ids for index in opened if (ids := read_ids(index)) is not None]
    if len(all_ids) not in (0, len(opened)):
        raise ValueError("some of the shards return own ids, and some positions: export them with the same --ids")
    sizes = np.array([[core.invlists.list_size(i) for i in range(core.nlist)] for core in cores])  # (s, nlist)
    starts = np.cumsum([0, *(core.ntotal for core in cores[:-1])])
    cores[0].reset()  # in memory alone
    index: Any = faiss.clone_index(cores[0])
    try:
        with replacing(lists) as temporary:
            merge_ondisk(index, [str(shard) for shard in shards], str(temporary), shift_ids=False)
            joined: Any = faiss.downcast_InvertedLists(index.invlists)
            for i in np.flatnonzero(sizes.sum(axis=0)).tolist():  # FAISS's shift_ids is wrong for shards of other sizes
                rows = faiss.rev_swig_ptr(joined.get_ids(i), int(sizes[:, i].sum()))
                rows += np.repeat(starts, sizes[:, i])
        joined.filename = str(lists)
        save_index(with_ids(index, np.concatenate(all_ids), reverse=False) if all_ids else index, out)
    except BaseException:
        lists.unlink(missing_ok=True)
        raise
