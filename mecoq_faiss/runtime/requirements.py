"""What this package requires, without some of it: for environments that have a FAISS of their own, or no torch.

python -m mecoq_faiss.runtime.requirements [--extras NAME ...] [--without PACKAGE ...] > requirements.txt
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from importlib import metadata

EXTRA = re.compile(r"""\s*(?:;|and)\s*extra\s*==\s*['"]([\w.-]+)['"]""")
FAISS = ("faiss-cpu", "faiss-gpu")


def requirements(extras: Collection[str] = (), without: Collection[str] = ()) -> list[str]:
    """Lines for pip: those of the package and of some extras, but for those of some packages.

    `faiss` among the latter means whatever wheel of it is required. ValueError for an extra that there is not.
    """
    found = metadata.metadata("mecoq-faiss")
    known = found.get_all("Provides-Extra") or []
    unknown = sorted(set(extras) - set(known))
    if unknown:
        raise ValueError(f"no extra {unknown[0]!r}: there are {', '.join(known)}")
    left_out = {name.lower() for name in without} | (set(FAISS) if "faiss" in without else set())
    lines = []
    for line in found.get_all("Requires-Dist") or []:
        extra = EXTRA.search(line)
        name = re.match(r"[\w.-]+", line)
        if (extra is None or extra[1] in extras) and name and name[0].lower() not in left_out:
            lines.append(EXTRA.sub("", line).strip())
    return lines


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--without", nargs="+", default=[], metavar="PACKAGE", help="such as torch; faiss is any of it")
    arguments = parser.parse_args()
    try:
        print("\n".join(requirements(arguments.extras, arguments.without)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
