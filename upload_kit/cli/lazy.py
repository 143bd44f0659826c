"""A group whose commands are imported when they are used, so that help comes fast."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyCommand:
    """A command that is not imported yet."""

    target: str
    """`module:name` of the command."""

    summary: str
    """The line in the list of commands; the first one of the command's own help."""

    @property
    def module(self) -> str:
        """The module that has to be imported."""
        return self.target.partition(":")[0]

    def load(self) -> click.Command:
        """Import it."""
        module, _, name = self.target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


class LazyGroup(click.Group):
    """
    A click group over a table of commands.

    Args:
        lazy: Which command is where; one whose module does not exist is not offered.
    """

    def __init__(self, *, lazy: Mapping[str, LazyCommand], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return [
            name
            for name, command in self._lazy.items()
            if find_spec(command.module) is not None
        ]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, if there is one of this name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return self._lazy[cmd_name].load()

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the commands without importing any."""
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy[name].summary) for name in names])
