"""report.html: one self-contained file that says what report.json holds, with text alternatives."""

from __future__ import annotations

import html
import re
import sys
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mecoq_faiss import ModelConfig, TrainConfig, train
from mecoq_faiss.baselines import Baseline
from mecoq_faiss.comparison.report import render
from mecoq_faiss.jobs.compare import compare


class Page(HTMLParser):
    """Every tag with its attributes, the ids, and the balance of opened and closed elements."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("report")
    model = ModelConfig(backbone="pixels", image_size=8, M=2, D=16, hidden=32)
    train("digits", folder / "run", model, TrainConfig(epochs=1, batch_size=250, cached_views=2))
    settings = [Baseline("PQ", 2), Baseline("LSH", 2), Baseline("Flat")]
    report = compare(folder / "run", "digits", "digits", folder / "out", settings=settings)
    return report, (folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(made: tuple[dict[str, Any], str]) -> Page:
    return Page(made[1])


def test_nothing_is_fetched_from_outside(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), f"{tag} {name}={value[:60]}"
        assert tag not in ("script", "link", "iframe", "object")


def test_styles_load_nothing(made: tuple[dict[str, Any], str]) -> None:
    text = made[1]
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_pictures_have_text_alternatives_and_load_lazily(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 6 * (1 + 4 * 10)  # each query, and ten results of each method
    for attributes in pictures:
        assert attributes["alt"] and attributes["loading"] == "lazy"
        assert attributes["width"] and attributes["height"]
    assert any((a["alt"] or "").startswith("relevant: digits/") for a in pictures)
    plots = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(plots) == 3
    for attributes in plots:
        assert attributes["role"] == "img" and attributes["aria-label"] and "width" not in attributes


def test_ids_are_unique_and_elements_closed(page: Page) -> None:
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), sorted(i for i in set(ids) if ids.count(i) > 1)[:5]
    assert not page.open


def test_the_verdict_figures_and_settings_are_there(made: tuple[dict[str, Any], str], page: Page) -> None:
    report, text = made
    for line in report["verdict"].split("\n"):
        assert f"<p>{html.escape(line)}</p>" in text
    assert not re.search(r"\$|{{|{%", text.split("</style>")[1].split("<figure>")[0]), "every placeholder is filled"
    words = " ".join(page.text)
    for method in report["methods"]:
        assert f"{method['score']:.4f}" in words and method["setting"] in words
        for key, name in (("neighbours", "recall@10"), ("neighbours_at_100", "recall@100")):
            assert f'<td data-label="{name}">{method["quality"][key]:.4f}</td>' in text
        for n in (1, 10, 100):
            assert f'<td data-label="P@{n}">{method["quality"][f"precision_at_{n}"]:.4f}</td>' in text
    for rank in report["by_rank"]:
        assert f"<td>{rank['best']}</td>" in text and f"<td>{rank['gain']:+.3f}</td>" in text
    for row in report["choice"]:
        assert row["name"] in words
    for name, value in (*report["train"].items(), *report["environment"].items()):
        assert name in words and str(value) in words, name


def test_it_suits_phones_and_both_color_schemes(made: tuple[dict[str, Any], str], page: Page) -> None:
    assert ("viewport", "width=device-width, initial-scale=1") in {
        (a.get("name"), a.get("content")) for _, a in page.tags
    }
    assert "prefers-color-scheme: dark" in made[1] and "@media (max-width" in made[1]
    assert "currentColor" in made[1] and "#010203" not in made[1]


def test_every_text_is_escaped(made: tuple[dict[str, Any], str]) -> None:
    hostile = "<b>&\"'.jpg"
    report = deepcopy(made[0])
    report["warnings"] = [hostile]
    report["verdict"] = report["choice"][0]["measure"] = report["choice"][0]["name"] = hostile
    report["data"] |= {"queries": hostile, hostile: hostile}
    report["methods"][0] |= {"label": hostile, "setting": hostile}
    report["measure"] = hostile  # the name of a column, also in an attribute
    picture = {"src": "data:image/jpeg;base64,", "width": 1, "height": 1, "alt": hostile, "mark": "hit"}
    text = render(report, [{"name": hostile, "picture": picture, "strips": [(hostile, [picture])]}])
    page = Page(text)
    assert not page.open and "b" not in {tag for tag, _ in page.tags}
    shown = [a for tag, a in page.tags if tag == "img"]
    assert [(a["alt"], a["title"]) for a in shown] == [(hostile, hostile)] * 2
    assert ("td", {"data-label": hostile}) in page.tags
    assert page.text.count(hostile) >= 9 and f"Warning: {hostile}." in page.text


@pytest.mark.parametrize(
    ("library", "users"),
    [("jinja2", ("report", "template")), ("matplotlib", ("report", "plots"))],
)
def test_a_missing_library_is_said_in_one_line(
    library: str, users: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for user in users:
        monkeypatch.delitem(sys.modules, f"mecoq_faiss.comparison.{user}")
    for name in [library, *(name for name in sys.modules if name.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"^[a-z ]+ needs? (?i:{library}): pip install 'mecoq-faiss\[report\]'$"):
        compare(tmp_path / "run", "digits", "digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()
