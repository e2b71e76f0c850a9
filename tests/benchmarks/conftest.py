"""What the tests of benchmarks share: these choose threads for their own process."""

import faiss
import pytest
import torch


@pytest.fixture(autouse=True)
def same_threads():
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    yield
    faiss.omp_set_num_threads(before[0])
    torch.set_num_threads(before[1])
