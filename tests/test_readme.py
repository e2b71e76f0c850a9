"""The README's commands and code run in a newcomer's folder, as printed but for what is ADDED to `train`; its figures."""

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
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


# As printed, `train` downloads a network's weights and takes minutes. The rest of the README is run to the letter.
ADDED = " --backbone pixels --image-size 16 --batch-size 16 --epochs 2"


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


def test_the_commands_and_the_four_lines(home: Path) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MECOQ_FAISS_CACHE": str(home / "cache"),
    }
    commands = block("On your own images")
    assert commands[0] == "pip install ."
    for line in commands[1:]:
        if " train " in line:
            line += ADDED
        done = subprocess.run(shlex.split(line), cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert len(done.stdout.splitlines()) == 11
    code = "\n".join(block("In your application")) + "\nprint(D.shape, I.shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "(1, 10) (1, 10)", done.stderr


SYSTEMS = {
    "**mecoq-faiss**": "MeCoQ",
    "mecoq-faiss, 4-bit codes (FastScan)": "MeCoQ, 4-bit codes",
    "PQ": "PQ",
    "OPQ": "OPQ",
    "ITQ": "ITQ",
    "uncompressed features (4,096 bytes)": "Flat",
}


def test_the_results_are_those_of_the_benchmark() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "table1.json").read_text())
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", README, re.MULTILINE))
    for name, system in SYSTEMS.items():
        for figure, bits in zip(table[name].replace("*", "").split(" | "), (16, 32, 64), strict=True):
            maps = [r["map"] for r in measured["rows"] if (r["system"], r["bits"]) == (system, bits)]
            assert figure == f"{100 * np.mean(maps):.1f}", (name, bits)


def test_the_results_of_all_training_images_are_those_of_the_benchmark() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "cifar10-i" / "table1.json").read_text())
    said = re.search(
        r"CIFAR-10 \(I\), one\s+seed.*?: (\d+\.\d) and (\d+\.\d), PQ (\d+\.\d)\s+and (\d+\.\d)", README, re.DOTALL
    )
    assert said and measured["seeds"] == 1 and measured["train"] == 50_000
    keys = [(system, bits) for system in ("MeCoQ", "PQ") for bits in (32, 64)]
    for figure, key in zip(said.groups(), keys, strict=True):
        assert [figure] == [f"{100 * r['map']:.1f}" for r in measured["rows"] if (r["system"], r["bits"]) == key], key


def test_the_deviation_is_no_more_than_said() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "table1.json").read_text())
    said = re.search(r"mean of three\s+seeds \(deviation ([\d.]+) at most\)", README)
    assert said and measured["seeds"] == 3
    for system in SYSTEMS.values():
        for bits in (16, 32, 64):
            maps = [100 * r["map"] for r in measured["rows"] if (r["system"], r["bits"]) == (system, bits)]
            assert len(maps) == 3 and np.std(maps, ddof=1) <= float(said[1]), (system, bits)


def test_links_and_make_targets_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in block("Try it"):
        assert f"\n{line.split()[1]}:" in makefile
