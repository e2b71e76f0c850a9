"""A comparison as one self-contained HTML page: what to use, tables, plots, retrieved pictures, settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mecoq_faiss.comparison.contenders import Contender
from mecoq_faiss.comparison.data import CompareData
from mecoq_faiss.comparison.plots import bars, lines
from mecoq_faiss.comparison.tables import by_rank, goal_tables
from mecoq_faiss.comparison.template import template
from mecoq_faiss.data.sources import ImageSource
from mecoq_faiss.data.thumbnails import thumbnail
from mecoq_faiss.storage.files import write_text

QUERIES_SHOWN = 6
TOP = 10
THUMBNAIL = 72  # pixels
CHOICES_SHOWN = 40


def write_report(path: Path, report: dict[str, Any], data: CompareData, contenders: Sequence[Contender]) -> None:
    """Write the page of `report` (the content of report.json) with pictures of `contenders`' results."""
    write_text(path, render(report, _pictures(data, contenders)))


def render(report: dict[str, Any], pictures: Sequence[dict[str, Any]] = ()) -> str:
    """The page of `report`; `pictures` holds, a query, its `name`, `picture` and `strips` of (label, pictures)."""
    d = report["data"]
    return template("report.html").render(
        verdict=report["verdict"].split("\n"),
        warnings=report["warnings"],
        summary=f"{d['num_queries']:,} queries ({d['queries']}) on {d['num_items']:,} images ({d['database']}); every "
        f"method on the same {d['feature_width']}-dimensional features of {report['model']['backbone']}.",
        goals=goal_tables(report),
        ranks=by_rank(report),
        note=_note(report),
        plots=list(_plots(report)),
        pictures=pictures,
        choice=[(row["name"], row["round"], *_tried(row)) for row in report["choice"][:CHOICES_SHOWN]],
        settings={
            "Data": d,
            "Model": report["model"],
            "Training": report["train"] or {},
            "Machine and versions": report["environment"],
        },
    )


def _tried(row: dict[str, Any]) -> tuple[str, str]:
    """What a setting was chosen by, and its figures."""
    if "also" not in row:
        return row["measure"], f"{row['score']:.4f}"
    return f"{row['measure']}, {row['also_measure']}", f"{row['score']:.4f}, {row['also']:.4f}"


EXACT_BY = {"aqs": "centred and normalised", "cosine": "by cosine", "ip": "by inner product", "l2": "by L2 distance"}


def _note(report: dict[str, Any]) -> str:
    d = report["data"]
    parts = {
        "map": f"Of one kind: MAP@{d['k']}, divided by the relevant items found; “all relevant” divides by all there "
        "are (Eq. 18); P@n: the relevant share of the first n. Relevant means: shares a label. Labels judge, and "
        "nothing else.",
        "same_image": "No labels. Altered copies: how often an image is among the ten best when an altered copy of it "
        "(crop, flip, colour, blur) is the query. To find these is the very objective of the learned codes; to find "
        "exact neighbours is not. Which of the two counts depends on what similar means in the application. Queries: "
        f"{d.get('views')}.",
        "neighbours": "No labels and no images.",
    }
    neighbors = (
        f" Exact neighbours: of the ten nearest by uncompressed features, {EXACT_BY[report['model']['metric']]}, the "
        "share among the first 10 and the first 100 results."
    )
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
        f"{parts[report['key']]}{neighbors} Every baseline's setting was chosen among {len(report['choice'])} in all"
        f"{', for each of the two goals' if d['labels'] else ', by exact neighbours'}, on {d['held_out']:,} held-out "
        "images of the database, never on the queries; early rounds look at less of the data, and their best go on. "
        "Training data of the baselines: "
        f"{d['training_data']}.{seeds}{intervals} Time: from a query's features to ten results, on one thread, in "
        "batches; the backbone, which is the same for all, is left out. Flat is uncompressed: larger, for orientation."
    )


def _plots(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(svg, caption) of each plot."""
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


def _pictures(data: CompareData, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """The first results of a few queries, one strip a method; nothing where the sources hold features."""
    if not isinstance(data.queries, ImageSource) or not isinstance(data.database, ImageSource):
        return []
    rows = _spread(data)
    found = [(c, c.index.search(c.queries(data.task.xq[rows]), min(TOP, len(data.xb)))[1]) for c in contenders]
    labels_q, labels_db = data.task.labels_q, data.task.labels_db
    blocks = []
    for number, row in enumerate(rows):
        strips = []
        for contender, I in found:
            pictures = []
            for item in I[number]:
                if item < 0:  # FastScan never finds a code of the lowest score that there is
                    continue
                mark = ""
                if labels_q is not None and labels_db is not None:
                    hit = bool(np.any(np.logical_and(labels_q[row], labels_db[item]))) if labels_q.ndim == 2 else (
                        labels_q[row] == labels_db[item]
                    )  # fmt: skip
                    mark = "hit" if hit else "miss"
                pictures.append(_picture(data.database, int(item), mark))
            strips.append((contender.label, pictures))
        picture = _picture(data.queries, int(row), "")
        blocks.append({"name": data.queries.paths[row], "picture": picture, "strips": strips})
    return blocks


def _spread(data: CompareData) -> list[int]:
    """A few queries, evenly over the rows: sources are sorted by name, hence often by class."""
    n = len(data.task.xq)
    return sorted({int((i + 0.5) * n / QUERIES_SHOWN) for i in range(QUERIES_SHOWN)})


def _picture(source: ImageSource, row: int, mark: str) -> dict[str, Any]:
    says = {"hit": "relevant: ", "miss": "not relevant: ", "": ""}[mark]
    return {**thumbnail(source, row, THUMBNAIL), "alt": says + source.paths[row], "mark": mark}
