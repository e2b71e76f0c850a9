"""Each is one command: `python -m benchmarks.scale measure --help`; `page` writes docs/scale.md from their results."""

import sys
from importlib import import_module

NAMES = ("measure", "simulate", "costs", "page")

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        sys.exit(f"python -m benchmarks.scale NAME ...: choose one of {', '.join(NAMES)}")
    sys.argv = [f"python -m benchmarks.scale {name}", *sys.argv[2:]]
    import_module(f"benchmarks.scale.{name}").main()
