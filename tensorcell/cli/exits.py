"""How a command ends: exit statuses, and the exception that carries what is to be said after Ctrl-C."""

from __future__ import annotations

DONE, USER, MISSED, INTERRUPTED = 0, 2, 3, 130
"""Done; the user's input cannot be used; below ``--fail-under``; stopped by Ctrl-C or a request to terminate."""


class Interrupted(Exception):
    """Ctrl-C, with what is to be said about it."""
