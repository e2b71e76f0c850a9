"""The documentation site: Markdown pages by MyST, the API from docstrings, the command line from click."""

import logging
import re
from typing import Any

from mecoq_faiss import __version__

logging.getLogger("faiss").setLevel(logging.WARNING)  # its loader says which library it tries

project = "mecoq-faiss"
author = "the mecoq-faiss authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["examples"]

html_theme = "furo"
html_title = f"mecoq-faiss {version}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_heading_anchors = 3
napoleon_use_ivar = True  # attributes as one list
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Docstrings are written to be read in an editor as well: their single backquotes are code.
default_role = "code"

NO_SPACE = "\u200b"  # a line may break there, and Sphinx takes what stands before a space for a type


def keep_names_together(app: Any, what: str, name: str, object: Any, options: Any, lines: list[str]) -> None:
    """`a, b: what both are` of a docstring: a field of both names."""
    for i, line in enumerate(lines):
        if found := re.match(r":(?:param|ivar) ((?:\*{0,2}\w+, )+\w+):", line):
            lines[i] = line.replace(found[1], found[1].replace(", ", f",{NO_SPACE}"), 1)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_names_together, priority=600)  # after napoleon
