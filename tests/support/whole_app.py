"""The program with all of its commands, which a run of it loads one at a time."""

from __future__ import annotations

from unseg.commands.application import COMMANDS, app_of

app = app_of(*COMMANDS)
