"""A comparison as one self-contained HTML page: tables, plots, retrieved pictures, settings."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib import resources
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from mecoq_faiss.comparison.contenders import Contender
from mecoq_faiss.comparison.data import CompareData
from mecoq_faiss.comparison.plots import bars, lines
from mecoq_faiss.data.sources import ImageSource
from mecoq_faiss.evaluation import FIRST
from mecoq_faiss.storage.files import write_text

QUERIES_SHOWN = 6
TOP = 10
THUMBNAIL = 72  # pixels
CHOICES_SHOWN = 40


def write_report(path: Path, report: dict[str, Any], data: CompareData, contenders: Sequence[Contender]) -> None:
    """Write the page of `report` (the content of report.json) with pictures of `contenders`' results."""
    template = resources.files("mecoq_faiss.comparison").joinpath("report.html").read_text(encoding="utf-8")
    d = report["data"]
    page = Template(template).substitute(
        verdict=html.escape(report["verdict"]),
        summary=html.escape(
            f"{d['num_queries']:,} queries ({d['queries']}) on {d['num_items']:,} images ({d['database']}); every "
            f"method on the same {d['feature_width']}-dimensional features of {report['model']['backbone']}."
        ),
        methods=_methods(report),
        note=html.escape(_note(report)),
        plots="\n".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for svg, caption in _plots(report)),
        pictures=_pictures(data, contenders),
        choice=_table(
            ("setting", report["choice"][0]["measure"] + ", held out"),
            ((row["name"], f"{row['score']:.4f}") for row in report["choice"][:CHOICES_SHOWN]),
        ),
        settings="\n".join(
            f"<h3>{title}</h3>{_table(('name', 'value'), (content or {}).items())}"
            for title, content in (
                ("Data", d),
                ("Model", report["model"]),
                ("Training", report["train"]),
                ("Machine and versions", report["environment"]),
            )
        ),
    )
    write_text(path, page)


def _methods(report: dict[str, Any]) -> str:
    """The main table; on a narrow screen every row becomes a card, hence the repeated names."""
    key, rows = report["key"], []
    for m in report["methods"]:
        cells = [(report["measure"] if key == "map" else "score", _score(m))]
        cells += [(name, f"{value:.4f}") for name, value in beside(m).items()]
        cells += [
            ("bytes", f"{m['num_bytes']:,}"),
            ("ms a query", f"{m['search_ms']:.3f}"),
            ("index file", f"{m['file_bytes'] / 1e6:,.2f} MB"),
        ]
        head = f'<th scope="row">{html.escape(m["label"])}<small>{html.escape(m["setting"])}</small></th>'
        data = "".join(f'<td data-label="{html.escape(name)}">{value}</td>' for name, value in cells)
        best = ' class="best"' if m["label"] == report["winner"] else ""
        rows.append(f"<tr{best}>{head}{data}</tr>")
    names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ["method", *(name for name, _ in cells)])
    return f'<table class="cards"><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def beside(method: dict[str, Any]) -> dict[str, float]:
    """What stands beside the score of a method of report.json, by its name in a table."""
    names = {"map_all": "all relevant", **{f"precision_at_{n}": f"P@{n}" for n in FIRST}}
    if "same_image" in method["quality"]:
        names["neighbours"] = "neighbours"
    return {name: method["quality"][key] for key, name in names.items() if key in method["quality"]}


def _score(method: dict[str, Any]) -> str:
    deviation = "" if method["deviation"] is None else f" ± {method['deviation']:.4f}"
    return f"{method['score']:.4f}{deviation}"


def _note(report: dict[str, Any]) -> str:
    d = report["data"]
    parts = {
        "map": f"Score: MAP@{d['k']}, divided by the relevant items found; “all relevant” divides by all there are "
        "(Eq. 18); P@n: the relevant share of the first n. Relevant means: shares a label. Labels judge, and nothing "
        "else.",
        "same_image": "No labels. Score: how often an image is among the ten best when an altered copy of it "
        "(crop, flip, colour, blur) is the query. To find these is the very objective of the learned codes; "
        "“neighbours” is not: recall@10 of the ten nearest by uncompressed features. Which of the two counts depends "
        f"on what similar means in the application. Queries: {d.get('views')}.",
        "neighbours": "No labels and no images. Score: recall@10 of the ten nearest by uncompressed features.",
    }
    seeds = (
        f" Means and deviations are over {d['seeds']} seeds, all else is the first one's; each seed's model is judged "
        "on the features of its own backbone, the others on those of the first."
        if d["seeds"] > 1
        else ""
    )
    intervals = (
        " Intervals are 95 % bootstrap intervals of the difference over the queries"
        f"{', with the deviation over the seeds' if d['seeds'] > 1 else ''}; a difference whose interval holds 0 "
        "decides nothing."
    )
    return (
        f"{parts[report['key']]} Every baseline's setting was chosen among {len(report['choice'])} on "
        f"{d['held_out']:,} held-out images of the database, never on the queries; training data of the baselines: "
        f"{d['training_data']}.{seeds}{intervals} Time: from a query's features to ten results, on one thread, in "
        "batches; the backbone, which is the same for all, is left out. Flat is uncompressed: larger, for orientation."
    )


def _plots(report: dict[str, Any]) -> Iterable[tuple[str, str]]:
    methods = {m["label"]: m["quality"] for m in report["methods"]}
    if report["key"] == "map":
        curves = {label: (q["recall"], q["precision"]) for label, q in methods.items()}
        yield lines("Precision and recall", curves, "recall", "precision"), "Precision against recall, by rank."
        precision = {label: (q["ranks"], q["precision"]) for label, q in methods.items()}
        yield (
            lines("Precision among the first n", precision, "n", "precision@n", logarithmic=True),
            "Share of relevant items among the first n.",
        )
    if report["key"] == "same_image":
        recall = {
            label: ([int(n) for n in q["same_image_at"]], list(q["same_image_at"].values()))
            for label, q in methods.items()
        }
        yield (
            lines("Recall of the same image", recall, "n", "recall@n", logarithmic=True),
            "How often the image of an altered copy is among the first n.",
        )
    groups = {m["label"]: m["codewords"] for m in report["methods"] if m["codewords"]}
    yield (
        bars("Codeword usage", groups, "share of codewords"),
        "Codewords in use, one bar a sub-quantizer: pale, those that occur; full, as many equally frequent ones as "
        "would carry the same information.",
    )


def _pictures(data: CompareData, contenders: Sequence[Contender]) -> str:
    """The first results of a few queries, one strip a method."""
    if not isinstance(data.queries, ImageSource) or not isinstance(data.database, ImageSource):
        return "<p>The sources hold features, no pictures.</p>"
    rows = _spread(data)
    found = [(c, c.index.search(c.queries(data.task.xq[rows]), min(TOP, len(data.xb)))[1]) for c in contenders]
    labels_q, labels_db = data.task.labels_q, data.task.labels_db
    blocks = []
    for number, row in enumerate(rows):
        strips = []
        for contender, I in found:
            pictures = []
            for item in I[number]:
                if item < 0:
                    continue
                mark = ""
                if labels_q is not None and labels_db is not None:
                    hit = bool(np.any(np.logical_and(labels_q[row], labels_db[item]))) if labels_q.ndim == 2 else (
                        labels_q[row] == labels_db[item]
                    )  # fmt: skip
                    mark = "hit" if hit else "miss"
                pictures.append(_picture(data.database, int(item), mark))
            strips.append(f"<h4>{html.escape(contender.label)}</h4><div>{''.join(pictures)}</div>")
        query = _picture(data.queries, int(row), "")
        name = html.escape(data.queries.paths[row])
        blocks.append(f'<section class="query"><h3>{query}<span>{name}</span></h3>{"".join(strips)}</section>')
    return "\n".join(blocks)


def _spread(data: CompareData) -> list[int]:
    """A few queries, evenly over the rows: sources are sorted by name, hence often by class."""
    n = len(data.task.xq)
    return sorted({int((i + 0.5) * n / QUERIES_SHOWN) for i in range(QUERIES_SHOWN)})


def _picture(source: ImageSource, row: int, mark: str) -> str:
    image = source.open(row, draft=THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    out = BytesIO()
    image.save(out, "JPEG", quality=80)
    says = {"hit": "relevant: ", "miss": "not relevant: ", "": ""}[mark]
    alt = html.escape(says + source.paths[row], quote=True)
    data = base64.b64encode(out.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    picture = f'<img src="data:image/jpeg;base64,{data}" {size} alt="{alt}" title="{alt}" loading="lazy">'
    return f'<span class="{mark}">{picture}</span>' if mark else picture


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
