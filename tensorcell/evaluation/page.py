"""The page of an evaluation: its notes and tables, with the pictures that lie beside it. jinja2 is imported for it."""

from __future__ import annotations

from tensorcell import pages
from tensorcell.evaluation.result import Evaluation, Picture
from tensorcell.evaluation.tables import TEXT_COLUMNS, all_tables
from tensorcell.pages.layout import rendered_page

PAGE = """{% block header %}<p class="sentence">{{ sentence }}</p>{% endblock %}
{% block main %}
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% for table, pictures in sections %}<h2>{{ table.heading }}</h2>
<div class="wide" tabindex="0" role="region" aria-label="{{ table.heading }}"><table class="numbers">
<tr>{% for name in table.columns %}
<th scope="col"{% if name in text %} class="text"{% endif %}>{{ name }}</th>{% endfor %}</tr>
{% for cells in table.rows %}<tr>{% for cell in cells %}
<td{% if table.columns[loop.index0] in text %} class="text"{% endif %}>
{%- if cell.startswith("**") %}<b>{{ cell.strip("*") }}</b>{% else %}{{ cell }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% for picture in pictures %}<p><img loading="lazy" alt="{{ picture.name }}" src="{{ picture.file }}"></p>
{% endfor %}{% endfor %}{% endblock %}"""


@pages.page.register
def evaluation_page(result: Evaluation) -> str:
    """One HTML page for the folder of the evaluation, which holds the pictures that it refers to."""
    pictures: dict[str, list[Picture]] = {}
    for picture in result.pictures:
        pictures.setdefault(picture.case, []).append(picture)
    cells, failed = len(result.rows), len(result.failed)
    return rendered_page(
        PAGE,
        title="tensorcell: restoration, side by side",
        sentence=f"{cells} cells, {failed} of them without scores." if failed else f"{cells} cells, all with scores.",
        notes=result.notes,
        sections=[(table, pictures.get(table.case, [])) for table in all_tables(result.rows)],
        text=TEXT_COLUMNS,
    )
