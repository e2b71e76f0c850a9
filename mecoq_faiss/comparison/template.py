"""template(): the HTML pages' Jinja2 templates, with autoescape, in which nothing undefined is passed over."""

from __future__ import annotations

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined, Template
except ImportError as error:
    raise ImportError("the page needs Jinja2: pip install 'mecoq-faiss[report]'") from error


def template(name: str) -> Template:
    """A template that lies beside this module, such as `report.html`."""
    environment = Environment(
        loader=PackageLoader("mecoq_faiss.comparison", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
