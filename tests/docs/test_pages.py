"""What the documentation names is there: the equations' files and tests, settings, commands, environment."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import pytest

from mecoq_faiss import ModelConfig, TrainConfig
from mecoq_faiss_cli.main import COMMANDS, main

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
GENERATED = ("paper.md", "paper-cifar10-i.md", "findings.md", "speed.md", "collections.md", "scale.md")
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name not in GENERATED)


def test_every_equation_has_a_file_and_a_test() -> None:
    page = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    section = page.split("## From the equation to the test\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:1] == "|"]
    rows = rows[2:]
    assert len(rows) == 9
    for equation, _, files, tests in rows:
        for name in re.findall(r"`([\w/]+\.py)`", files):
            assert (ROOT / "mecoq_faiss" / name).is_file(), name
        for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", files):
            source = (ROOT / "mecoq_faiss" / path).read_text(encoding="utf-8")
            for name in re.findall(r"`(\w+)`", names):
                assert re.search(rf"(def|class) {name}\b", source), (equation, name)
        found = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", tests)
        assert found, equation
        for path, names in found:
            source = (ROOT / "tests" / path).read_text(encoding="utf-8")
            for name in re.findall(r"`(\w+)`", names):
                assert f"def {name}(" in source, (equation, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_their_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    context = click.Context(main)
    for name, rest in re.findall(r"^(?:\$ )?mecoq-faiss ([a-z-]+)(.*)", text, re.MULTILINE):
        assert name in COMMANDS, name
        command = main.get_command(context, name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest):
            assert option in known, (name, option)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_exist(page: Path) -> None:
    fields = {field.name for config in (ModelConfig, TrainConfig) for field in dataclasses.fields(config)}
    for name in re.findall(r"--set (\w+)=[\d.]", page.read_text(encoding="utf-8")):
        assert name in fields, name
