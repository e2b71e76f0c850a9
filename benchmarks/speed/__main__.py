"""The speed benchmarks, each one command: `python -m benchmarks.speed search --help`; `page` writes docs/speed.md."""

import sys
from importlib import import_module

NAMES = (
    "search",
    "train",
    "encode",
    "export",
    "update",
    "filtered",
    "evaluate",
    "additive",
    "serve",
    "onnx",
    "ranks",
    "lance",
    "page",
)

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        sys.exit(f"python -m benchmarks.speed NAME ...: choose one of {', '.join(NAMES)}")
    sys.argv = [f"python -m benchmarks.speed {name}", *sys.argv[2:]]
    import_module(f"benchmarks.speed.{name}").main()
