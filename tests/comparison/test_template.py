"""Templates of the HTML pages: what goes into them is escaped, and what they lack is said."""

import jinja2
import pytest

from mecoq_faiss.comparison.template import template


def test_what_is_shown_is_escaped_and_nothing_undefined_is_passed_over() -> None:
    page = template("duplicates.html").render(name="<b>&", groups=[], items=0, pictures=False)
    assert "<title>Duplicates in &lt;b&gt;&amp;</title>" in page and "<b>" not in page
    with pytest.raises(jinja2.UndefinedError, match="'name' is undefined"):
        template("duplicates.html").render()
