"""Long runs, all or some of them: `python -m benchmarks.soak [shards] [updates] [readers]`, into results/soak.json.

Counts, memory and open files mean the same on a busy machine; of times there are only ratios within a run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import import_module
from pathlib import Path

from mecoq_faiss.storage.files import write_text

NAMES = ("shards", "updates", "readers")
RESULT = Path(__file__).parents[1] / "results" / "soak.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--folder", help="where the files are made; removed afterwards")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"unknown {', '.join(sorted(unknown))}: choose of {', '.join(NAMES)}")
    found = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    for name in arguments.names or NAMES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found[name] = import_module(f"benchmarks.soak.{name}").run(Path(folder))
        print(name, json.dumps(found[name]), flush=True)
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
