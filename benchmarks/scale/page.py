"""docs/scale.md: every figure in it comes from the JSON in `results/scale`.

python -m benchmarks.scale page
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.scale import results, words
from benchmarks.scale.measure import RATES
from benchmarks.speed.measure import Row
from mecoq_faiss.storage.files import write_text

FOLDER = RATES.parent
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
COMMANDS = {"rates": "measure", "simulation": "simulate", "costs": "costs"}


def page(folder: Path = FOLDER) -> str:
    """The text; of what has not been run it says so."""
    content = {name: _read(folder / f"{name}.json") for name in COMMANDS}
    parts = [words.INTRODUCTION]
    for title, name, mark, text, tables in results.SECTIONS:
        parts.append(f"## {title}\n")
        found = content[name]
        if found is None:
            parts.append(f"Not run yet: `python -m benchmarks.scale {COMMANDS[name]}`.\n")
            continue
        parts.append(f"{text}\n")
        for caption, columns, rows in tables(found):
            if rows:
                parts += [f"*{mark}.* {caption}\n".replace(" \n", "\n"), table(rows, columns)]
    parts += [words.LIMITS_OF_FAISS, "## What is assumed\n", *_assumed(content), words.NOT_MEASURED]
    return "\n".join(parts)


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows as Markdown: heading -> the row's key; a figure with a spread is shown with it."""
    lines = [list(columns), ["---:"] * len(columns)]
    lines += [[_cell(row, key) for key in columns.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(row: Row, key: str) -> str:
    spread = row.get(f"± {key}")
    return number(row.get(key)) + (f" ± {number(spread)}" if spread else "")


def number(value: object) -> str:
    """Three digits that count, thousands apart; whole numbers whole."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if abs(value) >= 100:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"


def _assumed(content: Mapping[str, Row | None]) -> Iterator[str]:
    """What computing and simulating were told, as it stands in the results."""
    costs, simulation = content["costs"], content["simulation"]
    if costs:
        prices = costs["assumed"]
        yield f"By the costs (`benchmarks/scale/prices.toml`; {prices['currency']}, {prices['as_of']}):\n"
        yield _settings(prices)
    if simulation:
        yield "By the simulations (`benchmarks/scale/simulation.toml`):\n"
        yield _settings(simulation["settings"])


def _settings(settings: Row) -> str:
    rows = [
        {"of": of, "what": name, "value": ", ".join(map(number, value)) if isinstance(value, list) else value}
        for of, group in settings.items()
        if isinstance(group, dict)
        for name, value in group.items()
    ]
    return table(rows, {"of": "of", "what": "what", "assumed": "value"})


def _read(path: Path) -> Row | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def main() -> None:
    write_text(PAGE, page())
    print(PAGE)


if __name__ == "__main__":
    main()
