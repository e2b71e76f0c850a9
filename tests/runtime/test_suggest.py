"""The end of an error: the nearest names, or what there is to choose from."""

from __future__ import annotations

import pytest

from mecoq_faiss.runtime.suggest import did_you_mean


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("temprature", "did you mean temperature?"),
        ("seeds", "did you mean seed?"),
        ("epoch", "did you mean epochs?"),
        ("xyz", "choose one of epochs, seed, temperature"),
        ("", "choose one of epochs, seed, temperature"),
    ],
)
def test_near_names_or_all(name: str, says: str) -> None:
    assert did_you_mean(name, {"temperature", "seed", "epochs"}) == says


def test_the_three_nearest_come_nearest_first() -> None:
    names = ["resnet101", "resnet18", "resnet34", "resnet50", "vgg16"]
    assert did_you_mean("resnet5", names) == "did you mean resnet50, resnet34, resnet18?"


def test_thirty_of_more() -> None:
    names = [f"{i:02}" for i in range(31)]
    assert did_you_mean("name", names[:30]) == f"choose one of {', '.join(names[:30])}"
    assert did_you_mean("name", iter(names)) == f"choose one of {', '.join(names[:30])}, ..."
