"""`evaluate`: degrade references, restore them with any methods, and score all of them side by side.

A reference is scaled to [0, 1], degraded by a seeded case, restored from what was measured alone, and compared with
what it was, without any fit of scale or shift. Every cell (volume, case, method) runs in a fresh interpreter: a crash
or too little memory costs that cell and no other. Finished cells are kept in the folder, and a second run does only
what is missing.

===================  ==============================================================================================
`references`         volumes that serve as truth, scaled to [0, 1]
`cases`              degradations: :class:`Case`, a pure function of the reference and a random generator
`peers`              interpolators and denoisers of other packages; `tensorly_peers`: those of TensorLy
`methods`            the table of all methods: :class:`Method`, a function of the :class:`Measurement`
`scores`             :class:`Row`, the scores of one cell
`cells`              :class:`Cell`, one volume, case and method; how it is measured (with `memory`)
`versions`           the version of the code that a cell depends on
`processes`          cells in interpreters of their own
`store`              finished cells of a folder
`means`              means over volumes, and differences between methods
`tables`             both as Markdown
`result`             :class:`Evaluation`: rows, means, differences; CSV and Markdown
`pictures`, `page`   slices of the results, and the page with all tables
`pace`, `grid`       how long a run still takes; :func:`evaluate`, the grid of cells
===================  ==============================================================================================
"""

from tensorcell.evaluation import page  # noqa: F401  (the import registers the page of an evaluation)
from tensorcell.evaluation.cases import CASES, FIGURES, KINDS, TABLE_2, Case, Degraded, Measurement, choose_cases
from tensorcell.evaluation.cells import Cell
from tensorcell.evaluation.grid import evaluate
from tensorcell.evaluation.means import Difference, Mean
from tensorcell.evaluation.methods import METHODS, Method, choose_methods
from tensorcell.evaluation.pace import Progress
from tensorcell.evaluation.references import Reference, references, scaled
from tensorcell.evaluation.result import Evaluation
from tensorcell.evaluation.scores import LOWER_IS_BETTER, SCORES, Row, score

__all__ = [
    "CASES",
    "FIGURES",
    "KINDS",
    "LOWER_IS_BETTER",
    "METHODS",
    "SCORES",
    "TABLE_2",
    "Case",
    "Cell",
    "Degraded",
    "Difference",
    "Evaluation",
    "Mean",
    "Measurement",
    "Method",
    "Progress",
    "Reference",
    "Row",
    "choose_cases",
    "choose_methods",
    "evaluate",
    "references",
    "scaled",
    "score",
]
