"""Arrays -> FAISS and back: learned codebooks and stored codes as searchable indexes, read, written, described, tuned.

The room that touches FAISS's internals; it imports no torch.
"""

from mecoq_faiss.runtime.faiss_check import check_faiss, simd_level

check_faiss()  # before anything fails in a way that does not name the mend

from mecoq_faiss.index.build import KINDS, build_index, check_ids, check_kind, check_options  # noqa: E402
from mecoq_faiss.index.codes import pair_codebooks  # noqa: E402
from mecoq_faiss.index.file import load_index, save_index  # noqa: E402
from mecoq_faiss.index.inspect import (  # noqa: E402
    describe_index,
    read_codebooks,
    read_codes,
    read_ids,
    set_search_effort,
    without_ids,
    without_refiner,
)

__all__ = [
    "KINDS",
    "build_index",
    "check_ids",
    "check_kind",
    "check_options",
    "describe_index",
    "load_index",
    "pair_codebooks",
    "read_codebooks",
    "read_codes",
    "read_ids",
    "save_index",
    "set_search_effort",
    "simd_level",
    "without_ids",
    "without_refiner",
]
