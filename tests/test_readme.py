"""The README's commands and code run, in a folder of a newcomer's; what a test adds to them it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from mecoq_faiss import ModelConfig
from mecoq_faiss.bundle.folder import read_items

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(heading: str) -> list[str]:
    """The first indented block below a heading."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    match = re.search(r"(?:^    .+\n)+", section, re.MULTILINE)
    assert match
    return [line[4:] for line in match[0].splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / "photos" / f"{i}.jpg")
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / "query.jpg")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Torch's own folder of downloads, which holds the default backbone's file: of that shape, its numbers random."""
    name = ModelConfig().backbone
    folder = tmp_path_factory.mktemp("torch")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    state = torchvision.models.get_model(name).state_dict()
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    torch.save(state, folder / "hub" / "checkpoints" / url.rpartition("/")[2])
    return folder


# To `train`, for the time of it: 40 views of each picture take some minutes on a CPU.
ADDED = "--views 4"


def test_the_commands_and_the_four_lines(home: Path, weights: Path) -> None:
    """As printed but for `pip install .` (this environment has it) and ADDED; nothing is downloaded."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MECOQ_FAISS_CACHE": str(home / "cache"),
        "TORCH_HOME": str(weights),
    }

    def run(arguments: list[str]) -> list[str]:
        done = subprocess.run(arguments, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}\n{done.stderr}"
        return done.stdout.splitlines()

    commands = block("On your own images")
    assert commands[0] == "pip install ." and [line.split()[1] for line in commands[1:]] == [
        "train", "export-index", "search"
    ]  # fmt: skip
    for line in commands[1:]:
        printed = run(shlex.split(line) + (ADDED.split() if " train " in line else []))
    assert printed[0] == "query.jpg" and [line.split()[0] for line in printed[1:]] == [str(i) for i in range(1, 11)]
    assert {line.split()[2] for line in printed[1:]} <= {f"{i}.jpg" for i in range(30)}
    code = "\n".join(block("In your application")) + "\nprint(I[0].tolist(), D[0].tolist(), sep='\\n')"
    rows, scores = map(json.loads, run([sys.executable, "-c", code]))
    paths = read_items(home / "bundle" / "items.h5")["paths"]
    assert paths[rows].tolist() == [line.split()[2] for line in printed[1:]]
    np.testing.assert_allclose(scores, [float(line.split()[1]) for line in printed[1:]], atol=1e-3)


SYSTEMS = {
    "**mecoq-faiss**": "learned",
    "mecoq-faiss, `--codes additive`": "learned, additive",
    "PQ": "PQ, standardised",
    "OPQ": "OPQ",
    "RQ": "RQ",
    "PLSQ": "PLSQ",
    "uncompressed features (4,096 bytes)": "Flat",
}
FIGURES = ("map", "1", "10", "100")  # as they stand in a cell
COLLECTIONS = ROOT / "benchmarks" / "results" / "collections"


def measured(collection: str, num_bytes: int, backbone: str = "mobilenetv1_100") -> dict[str, list[float]]:
    """By system its figures in %, means over seeds."""
    content = json.loads((COLLECTIONS / f"{collection}-{backbone}-kind.json").read_text())
    found: dict[str, list[float]] = {}
    for system in {row["system"] for row in content["rows"]}:
        mine = [row for row in content["rows"] if (row["system"], row["bytes"]) == (system, num_bytes)]
        values = [[row["map"], *(row["precision_at"][key] for key in FIGURES[1:])] for row in mine]
        if values:
            found[system] = (100 * np.mean(values, axis=0)).tolist()
    return found


def best_of_faiss(found: dict[str, list[float]]) -> list[float]:
    """Of each figure the best that a code of FAISS has."""
    return np.max([v for s, v in found.items() if not s.startswith("learned") and s != "Flat"], axis=0).tolist()


TABLE = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", README, re.MULTILINE))


def test_tables_are_whole() -> None:
    """Lines of `|` stand together under a heading and a rule, each with as many cells."""
    tables = re.findall(r"(?:^\|.*\n)+", README, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        first, rule, *rows = table.splitlines()
        assert re.fullmatch(r"\|(---\|)+", rule) and rows
        assert {line.count("|") for line in (first, rule, *rows)} == {rule.count("|")}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_results_are_those_of_the_benchmark(system: str) -> None:
    for cell, num_bytes in zip(TABLE[system].replace("*", "").split(" | "), (2, 4, 8), strict=True):
        said = re.findall(r"\d+\.\d", cell)
        assert said == [f"{value:.1f}" for value in measured("cifar10-ii", num_bytes)[SYSTEMS[system]]], num_bytes


def test_the_other_collections_are_as_measured() -> None:
    rows = {
        "CIFAR-10 (II) through EfficientNet": ("cifar10-ii", "tf_efficientnet_lite0"),
        "ten textures": ("textures",),
        "the same through EfficientNet": ("textures", "tf_efficientnet_lite0"),
        "five classes of ImageNet, 1,250": ("five",),
        "five classes through EfficientNet": ("five", "tf_efficientnet_lite0"),
        "handwritten digits": ("digits", "pixels"),
        "500 images of ten": ("few",),
        "50 classes of ImageNet": ("fifty",),
        "100 uneven classes": ("uneven",),
        "uneven classes through EfficientNet": ("uneven", "tf_efficientnet_lite0"),
        "200 classes": ("imagenet200",),
    }
    for said, (name, *backbone) in rows.items():
        title = next(key for key in TABLE if key.startswith(said))
        found = measured(name, 4, *backbone)
        expected = [*found["learned"][:3], *best_of_faiss(found)[:3]]
        assert re.findall(r"\d+\.\d", TABLE[title]) == [f"{value:.1f}" for value in expected]


def test_training_on_the_whole_database_is_as_measured() -> None:
    content = json.loads((COLLECTIONS / "cifar10-i-mobilenetv1_100-growth.json").read_text())
    said = []
    for num_bytes in (2, 4, 8):
        rows = [row for row in content["rows"] if (row["images"], row["bytes"]) == (50_000, num_bytes)]
        figures = {row["system"]: [row["map"], row["precision_at"]["1"], row["precision_at"]["10"]] for row in rows}
        pair = figures["learned"], best_of_faiss(figures)
        said += [" / ".join(f"{100 * value:.1f}" for value in v) for v in pair]
    words = "the codes of 2 bytes have {}, the best of FAISS's {}, of 4 bytes {} and {}, of 8 bytes {} and {}."
    assert words.format(*said) in " ".join(README.split())


def test_fine_is_as_measured() -> None:
    words = " ".join(README.split())
    for collection in (("fifty", 4), ("uneven", 4), ("uneven", 4, "tf_efficientnet_lite0"), ("imagenet200", 4)):
        figures = measured(*collection)["learned, fine, additive"]
        assert " / ".join(f"{value:.1f}" for value in figures[:3]) in words, collection


def test_the_findings_on_speed_and_baselines_are_measured() -> None:
    findings = " ".join((ROOT / "docs" / "findings.md").read_text(encoding="utf-8").split())
    results = ROOT / "benchmarks" / "results"
    said = re.search(r"made (\d\.\d) times as fast as in float32 .*?resnet50 at 224 px: (\d\.\d) times", findings)
    assert said
    for figure, name, backbone in zip(
        said.groups(), ("train", "default-backbone"), ("timm:mobilenetv1_100", "resnet50"), strict=True
    ):
        measured = json.loads((results / f"{name}.json").read_text())
        assert measured["settings"]["backbone"] == backbone
        assert figure == f"{measured['cache']['creation in bf16 / in float32']:.1f}"
    rows = json.loads((results / "table1.json").read_text())["rows"]
    chosen = {
        system: sum("standardised" in row["setting"] for row in rows if row["system"] == system)
        for system in ("PQ", "OPQ", "ITQ", "LSH")
    }
    assert chosen == {"PQ": 9, "OPQ": 9, "ITQ": 9, "LSH": 0}
    assert "PQ, OPQ and ITQ chose it in all nine runs, LSH in none" in findings


PARTS = {
    "contrast of reconstructions only": "reconstructions only",
    "without the three (the first version's recipe)": "without the three",
    "with a positive prior of 0.05": "positive prior 0.05",
}


def test_what_parts_of_the_recipe_are_worth_is_measured() -> None:
    findings = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    table = findings.split("| | CIFAR-10 (II) | five classes of ImageNet | ten textures |\n")[1].split("\n\n")[0]
    for line in table.splitlines()[1:]:
        title, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for collection, cell in zip(("cifar10-ii", "five", "textures"), cells, strict=True):
            rows = json.loads((COLLECTIONS / f"{collection}-mobilenetv1_100-parts.json").read_text())["rows"]
            mine = [row for row in rows if (row["system"], row["bytes"]) == (PARTS.get(title, title), 4)]
            values = [[row["map"], row["precision_at"]["1"], row["precision_at"]["10"]] for row in mine]
            assert cell == ", ".join(f"{100 * value:.1f}" for row in values for value in row), (title, collection)


def test_links_and_make_targets_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in block("Try it"):
        assert f"\n{line.split()[1]}:" in makefile
