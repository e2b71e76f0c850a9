"""The documentation site: Markdown pages by MyST, the API from docstrings, the command line from click."""

import logging

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

myst_heading_anchors = 3
napoleon_use_ivar = True  # attributes as one list
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Docstrings are written to be read in an editor as well: their single backquotes are code.
default_role = "code"
