"""Help texts that show what is written: `--help` would take a text in brackets for markup, and leave it out."""

from __future__ import annotations

from copy import copy
from typing import Any

from rich.markup import escape
from typer.core import TyperCommand


class LiteralHelp(TyperCommand):
    """A command whose help and options are shown as they are written, brackets among them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help of a copy whose texts are marked as no markup."""
        if self.rich_markup_mode is None:  # in plain lines nothing is markup
            super().format_help(ctx, formatter)
            return
        shown = copy(self)
        shown.help = None if self.help is None else escape(self.help)
        shown.params = list(map(_escaped, self.params))
        super(LiteralHelp, shown).format_help(ctx, formatter)


def _escaped(parameter: Any) -> Any:
    shown = copy(parameter)
    shown.help = None if parameter.help is None else escape(parameter.help)
    return shown
