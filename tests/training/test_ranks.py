"""Several ranks learn what one learns with the whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mecoq_faiss.training.ranks import Ranks
from tests.training.group import on_ranks
from tests.training.steps import LAST, SETTINGS, each_case, steps_of


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def of_ranks(request: pytest.FixtureRequest) -> list[Any]:
    return on_ranks(request.param, each_case)


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", list(SETTINGS))
def test_gradients_are_those_of_one_rank_with_the_whole_batch(
    name: str, dtype: torch.dtype, tolerance: float, last: int, of_ranks: list[Any]
) -> None:
    alone = steps_of(name, dtype, last)
    for found in of_ranks:
        for key, array in found[name, dtype, last].items():
            np.testing.assert_allclose(
                array, alone[key], rtol=0, atol=tolerance * np.abs(alone[key]).max(), err_msg=key
            )
        assert found[name, dtype, last].keys() <= alone.keys()
    assert of_ranks[0][name, dtype, last].keys() == alone.keys()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 128])
def test_shares_make_up_the_whole_and_differ_by_one_at_most(n: int, size: int) -> None:
    shares = [Ranks(rank, size).share(n) for rank in range(size)]
    assert [i for share in shares for i in range(n)[share]] == list(range(n))
    counts = [share.stop - share.start for share in shares]
    assert counts == Ranks(0, size).counts(n) and max(counts) - min(counts) <= 1
