"""How Sphinx builds these pages: ``python -m sphinx -W --keep-going docs docs/_build``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import matplotlib as mpl

import tensorcell

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import pages_from_code  # noqa: E402  # lies beside this file

project = "tensorcell"
author = copyright = "tensorcell developers"
version = release = tensorcell.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "_made/*.md",
    "gallery/*.py",
    "gallery/*.rst",
    "galleries/**/*.ipynb",
    "galleries/**/*.py",
]
html_theme = "pydata_sphinx_theme"
html_title = f"tensorcell {release}"
html_show_sourcelink = False
html_sidebars: dict[str, list[str]] = {page: [] for page in ("formats", "mathematics", "readme", "trust")}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "header_links_before_dropdown": 7}

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections name the types in words
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "galleries",
    "filename_pattern": "/plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 1,
    "abort_on_example_error": True,
    "capture_repr": (),  # what an example prints is shown, not what Matplotlib returns
    "show_memory": False,
}
mpl.rcParams["figure.dpi"] = 100

os.environ.setdefault("COLUMNS", "100")  # width of the tables that the examples print


def setup(app: object) -> None:
    """Write the pages that are made from the code before any page is read."""
    pages_from_code.write_all(HERE / "_made")
