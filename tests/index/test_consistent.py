"""An index whose parts contradict each other is refused; one that `build_index` makes is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index
from mecoq_faiss.index.consistent import check_consistent
from mecoq_faiss.index.inspect import pq_core
from tests.index.truth import arrays, every_case

N = 70


@every_case
@pytest.mark.parametrize("own", [False, True])
def test_every_kind_is_consistent(kind: str, M: int, K: int, options: dict[str, Any], own: bool) -> None:
    codebooks, codes, _ = arrays(N, M, K)
    check_consistent(build_index(codebooks, codes, kind, ids=np.arange(N) * 3 if own else None, **options))


def core_set(name: str, value: Any) -> Callable[[Any], None]:
    return lambda index: setattr(pq_core(index), name, value)


def fewer_ids(index: Any) -> None:
    faiss.copy_array_to_vector(np.arange(N - 1), index.id_map)


def not_finite(index: Any) -> None:
    faiss.rev_swig_ptr(pq_core(index).pq.centroids.data(), 1)[0] = np.inf


def fewer_codes(index: Any) -> None:
    core: Any = pq_core(index)
    core.codes.resize(core.codes.size() - 1)


def fewer_exact_codes(index: Any) -> None:
    exact: Any = faiss.downcast_index(index.refine_index)
    exact.codes.resize(3)


def other_positions(index: Any) -> None:
    lists = pq_core(index).invlists
    number = next(i for i in range(lists.nlist) if lists.list_size(i))
    faiss.rev_swig_ptr(lists.get_ids(number), 1)[0] = N


def one_position_twice(index: Any) -> None:
    lists = pq_core(index).invlists
    number = next(i for i in range(lists.nlist) if lists.list_size(i) > 1)
    ids = faiss.rev_swig_ptr(lists.get_ids(number), 2)
    ids[0] = ids[1]


@pytest.mark.parametrize(
    ("kind", "options", "edit", "said"),
    [
        ("pq", {}, core_set("is_trained", False), "IndexPQ is not trained"),
        ("pq", {}, core_set("search_type", 2), "it searches by FAISS's method 2"),
        ("pq", {}, core_set("ntotal", N + 1), "its codes take 140 bytes, 71 of them 142"),
        ("pq", {}, not_finite, "NaN or infinite"),
        ("pq", {}, fewer_codes, "its codes take 139 bytes"),
        ("pq", {"ids": np.arange(N)}, fewer_ids, "it has 69 ids for 70 codes"),
        ("pqfs", {}, core_set("bbs", 33), "its blocks are of 33 codes"),
        ("pqfs", {}, core_set("implem", 12), "FAISS's methods"),
        ("pqfs", {}, core_set("ntotal2", 64), "its blocks hold 64 codes for 70"),
        ("pqfs", {"refine": True}, fewer_exact_codes, "its codes take 3 bytes"),
        ("ivfpq", {"nlist": 4}, core_set("nprobe", 5), "it visits 5 of 4 lists"),
        ("ivfpq", {"nlist": 4}, other_positions, "positions 70|to 70 of 70"),
        ("ivfpq", {"nlist": 4}, one_position_twice, "69 different codes of 70"),
        ("ivfpqfs", {"nlist": 4}, core_set("ntotal", N - 1), "d=24, n=69|its lists hold 70 codes of 69"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(
    kind: str, options: dict[str, Any], edit: Callable[[Any], None], said: str
) -> None:
    codebooks, codes, _ = arrays(N, 4, 16)
    index = build_index(codebooks, codes, kind, **options)
    check_consistent(index)
    edit(index)
    with pytest.raises(ValueError, match=said) as refused:
        check_consistent(index)
    assert "\n" not in str(refused.value)


def test_a_wrapper_that_changes_vectors_is_refused() -> None:
    index = faiss.index_factory(8, "OPQ2,PQ2x4np", faiss.METRIC_INNER_PRODUCT)
    index.train(np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32))
    with pytest.raises(ValueError, match="it is wrapped in IndexPreTransform"):
        check_consistent(index)
