"""The Markdown page of a folder of results: every figure in it comes from the JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.published import BITS, TABLE1, published
from mecoq_faiss.storage.files import write_text

Content = dict[str, Any]
HERE = {  # the paper's name -> the system run here; what differs from the paper: all use the same frozen features
    "LSH+VGG": "LSH",
    "SpeH+VGG": "SpeH",
    "SH+VGG": "SH",
    "SphH+VGG": "SphH",
    "ITQ+VGG": "ITQ",
    "PQ+VGG": "PQ",
    "OPQ+VGG": "OPQ",
    "GreedyHash": "GreedyHash",
    "Bi-half Net": "Bi-half Net",
    "CIBHash": "CIBHash",
    "MeCoQ (Ours)": "MeCoQ",
}
FIRST_VERSION = "0.1.0"  # its default recipe was another
FIRST = ("1", "10", "100")  # results whose precision stands beside MAP
FLAT = " Flat is uncompressed: 4 bytes a dimension."
TITLES = {
    "table1": "Table 1: systems at equal bytes",
    "rivals": "Rivals, beside the default recipe",
    "table2": "Table 2: variants",
    "variants": "Table 2's variants, of the default recipe as it is now",
    "table3": "Table 3: negatives, time, memory",
    "fig2": "Figure 2: degeneration",
    "fig3": "Figure 3: feature drift",
    "fig4": "Figure 4: positive prior and memory size",
    "fig5": "Figure 5: sensitivities",
    "fig6": "Figure 6: precision and recall",
    "fig7": "Figure 7: precision among the first n",
    "fig8": "Figure 8: t-SNE",
    "fig9": "Figure 9: retrieved images",
    "recipe": "The default recipe",
}


def write_page(out: Path) -> None:
    """Write OUT/paper.md from the JSON files that are there."""
    contents = {
        name: json.loads(path.read_text(encoding="utf-8")) for name in TITLES if (path := out / f"{name}.json").exists()
    }
    parts = ["# The paper's experiments, run here\n", *map(_setting, list(contents.values())[:1]), *_version(contents)]
    if "table1" in contents and "rivals" in contents:
        contents["table1"]["rivals"] = contents["rivals"]["rows"]
    for name, content in contents.items():
        parts.append(f"## {TITLES[name]}\n")
        if name in TABLES:
            parts.append(TABLES[name](content))
        if (out / f"{name}.png").exists():
            parts.append(f"![{TITLES[name]}]({name}.png)\n")
    write_text(out / "paper.md", "\n".join(parts))


def _version(contents: dict[str, Content]) -> list[str]:
    """Which default recipe the results are of, where it is not today's."""
    first = {name for name, content in contents.items() if content["environment"]["mecoq-faiss"] == FIRST_VERSION}
    if not first:
        return []
    now = ", ".join(f'"{TITLES[name]}"' for name in contents if name not in first)
    return [
        f'Here "MeCoQ" and the default recipe are those of version {FIRST_VERSION}{now and f", but in {now}"}: '
        "the recipe that `train` has now, without distillation, contrast with embeddings and polishing "
        "(`preserve_weight=0`, `asymmetric_share=0`, `polish_rounds=0`). What it gives with them, beside every code of "
        "FAISS and on more collections: [collections](collections.md).\n"
    ]


def _setting(c: Content) -> str:
    e = c["environment"]
    return (
        f"{c['data']}: {c['train']:,} training images without labels, {c['queries']:,} queries, {c['database']:,} "
        f"database images; frozen {c['backbone']} ({c['weights']}) at {c['image_size']} pixels, {c['views']} cached "
        "random views of each training image. Every system learns from, and searches, the same features. The paper "
        "fine-tunes VGG16 at 224 pixels, on fresh views every epoch: its figures and these compare as orders, not as "
        "numbers. MAP is the mean of precisions at the relevant ranks among the first k, divided by the relevant items "
        "found there, not by all of the database as in Eq. 18.\n"
        f"\nMachine: {e['platform']}, {e['cores']} cores; torch {e['torch']}, FAISS {e['faiss']} ({e['simd']}).\n"
    )


def _table1(c: Content) -> str:
    groups = _group(c["rows"], "system")
    theirs = _group(c.get("rivals", []), "system")
    return f"{_rows_of_systems(c)}\n### The paper's 24 systems\n\n{_systems(c, theirs | groups)}"


def _rows_of_systems(c: Content) -> str:
    bits = c["bits"]
    groups = _group(c["rows"], "system")
    named = any(isinstance(row["setting"], str) for row in c["rows"])
    chosen = ["setting chosen on held-out images"] if named else []
    rows = []
    for system, mine in groups.items():
        cells = [_mean(_maps(mine, size)) + _at_the_top(mine, size) for size in bits]
        settings = list(dict.fromkeys(row["setting"] for row in mine if isinstance(row["setting"], str)))
        rows.append([system, *cells, *(["; ".join(settings)] if chosen else [])])
    text = _table(["system", *(f"{size} bits" for size in bits), *chosen], rows)
    note = f"MAP@{c['k']} in %, {_seeds(c['seeds'])}.{FLAT if 'Flat' in groups else ''}\n"
    if any("precision_at" in row for row in c["rows"]):
        note += f"In brackets: precision@{', @'.join(FIRST)} in %, means over the seeds; where it was measured.\n"
    return f"{note}\n{text}"


def _systems(c: Content, groups: dict[str, list[Content]]) -> str:
    theirs = published(c["data"])
    rows = []
    for system, venue, kind, _ in TABLE1:
        mine = groups.get(HERE.get(system, ""), [])
        paper = theirs.get(system, (None,) * 3)
        here = [_mean(_maps(mine, size)) for size in BITS]
        status = (
            "run here" if mine else "the paper's figure only" if any(paper) else "not on this protocol in the paper"
        )
        rows.append([system, venue, kind, *(f"{p:.2f}" if p else "" for p in paper), *here, status])
    head = ["system", "venue", "type", *(f"paper, {b}" for b in BITS), *(f"here, {b}" for b in BITS), ""]
    return _table(head, rows)


def _table2(c: Content) -> str:
    parts = []
    for recipe, rows in _group(c["rows"], "recipe").items():
        variants = _group(rows, "variant")
        full = {size: _maps(variants["full"], size) for size in c["bits"]}
        lines = []
        for variant, mine in variants.items():
            cells = []
            for size in c["bits"]:
                maps = _maps(mine, size)
                drop = f" ({np.mean(maps) - np.mean(full[size]):+.2f})" if variant != "full" and maps else ""
                cells.append(_mean(maps) + drop)
            usage = np.mean([share["used"] for row in mine for share in row["codewords"]])
            similarity = np.mean([row["codeword_similarity"] for row in mine])
            lines.append([variant, *cells, f"{100 * usage:.0f} %", f"{similarity:.4f}"])
        head = ["variant", *(f"{size} bits" for size in c["bits"]), "codewords used", "their similarity"]
        parts.append(f"With the {recipe}:\n\n{_table(head, lines)}")
    return "\n".join(parts)


def _table3(c: Content) -> str:
    rows = [
        [
            f"N = {row['batch_size']}, {row['memory_size']} slots",
            row["negatives"],
            f"{row['seconds_an_epoch']:.2f}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}",
            f"{100 * row['map']:.2f}",
        ]
        for row in c["rows"]
    ]
    head = ["batch and memory", "negatives", "seconds an epoch", "peak memory above the start, MB", "MAP (%), 32 bits"]
    return f"{_table(head, rows)}\nOn {c['rows'][0]['threads']} thread(s); the head only, the backbone is frozen.\n"


def _fig2(c: Content) -> str:
    rows = [
        [
            row["condition"],
            row["diversity_weight"],
            f"{100 * max(value for _, value in row['maps']):.2f}",
            f"{100 * row['maps'][-1][1]:.2f}",
            f"{row['codeword_similarity'][-1]:.4f}",
            f"{100 * row['codeword_usage'][-1]:.0f} %",
        ]
        for row in c["rows"]
    ]
    note = "MAP in %, of held-out images; where layers learn, of a part of them: compare those rows among themselves.\n"
    head = ["condition", "gamma", "best MAP", "last MAP", "similarity of codewords", "codewords used"]
    return f"{note}\n{_table(head, rows)}"


def _fig3(c: Content) -> str:
    rows = []
    for row in c["rows"]:
        last = len(row["drift"]["soft"])
        for epoch in sorted({1, min(5, last), last // 2, last}):
            drift = [f"{row['drift'][kind][epoch - 1]:.4f}" for kind in ("original", "soft", "hard")]
            error = [f"{row['quantization_error'][kind][epoch]:.3f}" for kind in ("soft", "hard")]
            rows.append([row["recipe"], epoch, *drift, *error])
    head = ["recipe", "epoch", "drift, embeddings", "drift, soft", "drift, hard", "error, soft", "error, hard"]
    return f"Squared distances over an epoch (Eq. 11), segments of norm 1.\n\n{_table(head, rows)}"


def _sensitivities(c: Content) -> str:
    rows = []
    for parameter, mine in _group(c["rows"], "parameter").items():
        for bits in dict.fromkeys(row["bits"] for row in mine):
            values = [f"{row['value']}: {100 * row['map']:.2f}" for row in mine if row["bits"] == bits]
            rows.append([parameter, bits, ", ".join(values)])
    return _table(["setting", "bits", f"value: MAP@{c['k']} in %, the other settings at their defaults"], rows)


def _recipe(c: Content) -> str:
    parts = [
        "One setting changed at a time. The default was chosen by the held-out images alone. What a first seed left "
        "within half a point of it was run with the others too; differences are of equal seeds.\n"
    ]
    for bits in c["bits"]:
        rows = [row for row in c["rows"] if row["bits"] == bits]
        default = {row["seed"]: 100 * row["held_out"] for row in rows if row["default"]}
        lines = []
        for parameter, mine in _group(rows, "parameter").items():
            for value, same in _group(mine, "value").items():
                held = [100 * row["held_out"] for row in same]
                gains = [mine - default[row["seed"]] for mine, row in zip(held, same, strict=True)]
                gain = "default" if same[0]["default"] else _mean(gains, "+")
                lines.append([parameter, value, _mean(held), gain, _mean(_maps(same, bits))])
        head = ["setting", "value", "MAP, held-out images", "against the default", f"MAP@{c['k']}, queries"]
        parts.append(f"{bits} bits, in %, {_seeds(c['seeds'])}:\n\n{_table(head, lines)}")
    return "\n".join(parts)


TABLES = {
    "table1": _table1,
    "rivals": _rows_of_systems,
    "table2": _table2,
    "variants": _table2,
    "table3": _table3,
    "fig2": _fig2,
    "fig3": _fig3,
    "fig4": _sensitivities,
    "fig5": _sensitivities,
    "recipe": _recipe,
}


def _group(rows: Iterable[Content], key: str) -> dict[str, list[Content]]:
    groups: dict[str, list[Content]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def _maps(rows: Iterable[Content], bits: int) -> list[float]:
    return [100 * row["map"] for row in rows if row["bits"] == bits]


def _at_the_top(rows: Iterable[Content], bits: int) -> str:
    """Precision among the first results in %, beside MAP, of rows that have it."""
    measured = [row["precision_at"] for row in rows if row["bits"] == bits and "precision_at" in row]
    if not measured:
        return ""
    means = [100 * np.mean([row[n] for row in measured]) for n in FIRST]
    return f" ({', '.join(f'{mean:.1f}' for mean in means)})"


def _seeds(count: int) -> str:
    return f"mean ± deviation over {count} seeds; without a deviation, one seed" if count > 1 else "one seed"


def _mean(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.2f}{deviation}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"
