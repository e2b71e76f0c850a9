"""Several ranks learn what one learns with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mecoq_faiss import ModelConfig
from mecoq_faiss.model import MeCoQ
from mecoq_faiss.runtime.ranks import Ranks
from mecoq_faiss.training.run_folder import RunFolder
from mecoq_faiss.training.start import check_for_ranks
from tests.training import runs
from tests.training.group import on_ranks
from tests.training.steps import LAST, SETTINGS, each_case, steps_of


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, list[Any]]:
    """How many ranks, where they trained, and what each of them found: gradients and runs."""
    folder = tmp_path_factory.mktemp("ranks")
    runs.make_data(folder)
    runs.lost(folder, "lost-alone-then-more", 20)
    return request.param, folder, on_ranks(request.param, each_of_both, folder)


def each_of_both(folder: Path) -> tuple[Any, Any]:
    return each_case(), runs.on_each_rank(folder)


@pytest.fixture(scope="module")
def of_ranks(together: tuple[int, Path, list[Any]]) -> list[Any]:
    return [gradients for gradients, _ in together[2]]


@pytest.fixture(scope="module")
def trained(together: tuple[int, Path, list[Any]]) -> tuple[int, Path, list[Any]]:
    return *together[:2], [found for _, found in together[2]]


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


@pytest.mark.parametrize("kind", list(runs.KINDS))
def test_a_run_on_several_ranks_is_that_of_one(kind: str, trained: tuple[int, Path, list[Any]]) -> None:
    size, folder, found = trained
    alone = runs.whole(folder, kind, "alone")
    for name, array in found[0][kind].items():
        for other in found[1:]:
            np.testing.assert_array_equal(other[kind][name], array)  # all ranks return the very same
        # batch norm's biases begin at 0 and are sums that nearly cancel; test_batch_norm compares a step in float64
        tolerance = 1e-4 if kind == "batch norm" and name.endswith("bias") else 1e-5
        np.testing.assert_allclose(array, alone[name], rtol=0, atol=tolerance * np.abs(alone[name]).max(), err_msg=name)
    records, expected = (RunFolder(folder / f"{kind}-{by}").read_metrics() for by in (f"on-{size}", "alone"))
    assert len(records) == len(expected)
    for record, wanted in zip(records, expected, strict=True):
        assert record.keys() == wanted.keys()
        for name in record.keys() - {"images_per_second"}:
            assert record[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), (record["epoch"], name)


@pytest.mark.parametrize("how", ["lost", "stopped"])
def test_ranks_go_on_to_the_same_bytes(how: str, trained: tuple[int, Path, list[Any]]) -> None:
    size, folder, found = trained
    for name in ("model.safetensors", "last.pt"):
        bytes_of_whole = (folder / f"views-on-{size}" / name).read_bytes()
        assert (folder / f"{how}-on-{size}" / name).read_bytes() == bytes_of_whole
    for of_rank in found:
        assert of_rank["stopped"].startswith(
            "stopped by SIGTERM in epoch 7, step 3: run the same command with --resume"
        )


def test_a_run_goes_on_on_another_number_of_ranks(trained: tuple[int, Path, list[Any]]) -> None:
    size, folder, _ = trained
    alone = runs.whole(folder, "views", "alone again")
    for name in (f"lost-on-{size}-then-alone", f"stopped-on-{size}-then-alone", "lost-alone-then-more"):
        runs.resumed(folder, name)
        for key, tensor in RunFolder(folder / name).load_trained().state_dict().items():
            torch.testing.assert_close(tensor, torch.from_numpy(alone[key]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            ModelConfig("mobilenet_v3_small", "none", trainable_layers=1, image_size=32),
            "Dropout in the layers that learn",
        ),
    ],
)
def test_what_several_ranks_would_learn_otherwise_is_refused(config: ModelConfig, says: str) -> None:
    model = MeCoQ(config)
    check_for_ranks(model, Ranks())
    with pytest.raises(ValueError, match=says):
        check_for_ranks(model, Ranks(0, 2))


def test_micro_batches_of_batch_norm_are_refused() -> None:
    model = MeCoQ(runs.NORMED)
    check_for_ranks(model, Ranks(0, 2))
    model.backbone.micro_batch = 4
    with pytest.raises(ValueError, match="micro_batch and layers that learn with batch norm"):
        check_for_ranks(model, Ranks(0, 2))
