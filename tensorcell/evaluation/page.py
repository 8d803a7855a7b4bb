"""The page of an evaluation: its notes and tables, with the pictures that lie beside it. jinja2 is imported for it."""

from __future__ import annotations

from tensorcell import pages
from tensorcell.evaluation.result import Evaluation, Picture
from tensorcell.evaluation.tables import TEXT_COLUMNS, all_tables

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem; color: #1d2126 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem } img { max-width: 100%; height: auto }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: .5rem 0 }
td, th { padding: .2rem .9rem .2rem .1rem; border-bottom: 1px solid #dfe3e7; text-align: right; white-space: nowrap }
td, th { font-size: .9rem } td.text, th.text { text-align: left } ul { max-width: 60rem }
</style>
<h1>{{ title }}</h1>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% for table, pictures in sections %}<h2>{{ table.heading }}</h2>
<div class="wide"><table><tr>
{% for name in table.columns %}<th{% if name in text %} class="text"{% endif %}>{{ name }}</th>
{% endfor %}</tr>
{% for cells in table.rows %}<tr>{% for cell in cells %}
<td{% if table.columns[loop.index0] in text %} class="text"{% endif %}>
{%- if cell.startswith("**") %}<b>{{ cell.strip("*") }}</b>{% else %}{{ cell }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% for picture in pictures %}<p><img loading="lazy" alt="{{ picture.name }}" src="{{ picture.file }}"></p>
{% endfor %}{% endfor %}
</html>
"""


@pages.page.register
def evaluation_page(result: Evaluation) -> str:
    """One HTML page for the folder of the evaluation, which holds the pictures that it refers to."""
    import jinja2

    pictures: dict[str, list[Picture]] = {}
    for picture in result.pictures:
        pictures.setdefault(picture.case, []).append(picture)
    sections = [(table, pictures.get(table.case, [])) for table in all_tables(result.rows)]
    return (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            title="tensorcell: restoration, side by side",
            notes=result.notes,
            sections=sections,
            text=TEXT_COLUMNS,
        )
    )
