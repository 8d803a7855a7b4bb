"""The form that all pages share: one style sheet, one header, light and dark, and nothing outside the file.

jinja2 is imported when a page is made.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from tensorcell.version import __version__


def asset(name: str) -> str:
    """Text of a file of this package, such as the style sheet.

    >>> asset("report.css").startswith(":root")
    True
    """
    return files("tensorcell.pages").joinpath(name).read_text(encoding="utf-8")


def rendered_page(body: str, *, title: str, **values: Any) -> str:
    """One self-contained page.

    Parameters
    ----------
    body : str
        Template of jinja2 that fills the blocks ``header``, ``main`` and ``end`` of ``report.html``; what is inserted
        is escaped.
    title : str
    **values
        What the template names.

    Examples
    --------
    >>> page = rendered_page("{% block main %}<p>{{ text }}</p>{% endblock %}", title="cells", text="a < b")
    >>> "<title>cells</title>" in page, "<p>a &lt; b</p>" in page
    (True, True)
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, loader=jinja2.FunctionLoader(asset))
    template = environment.from_string("{% extends 'report.html' %}" + body)
    return template.render(title=title, css=asset("report.css"), theme=asset("theme.js"), version=__version__, **values)
