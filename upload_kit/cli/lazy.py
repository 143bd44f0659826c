"""A group whose commands are imported when they are used, so that help comes fast."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


VARIABLES: Final = "UPLOAD_KIT"
"""What the names of environment variables begin with."""


def key_of(parameter: click.Parameter) -> str:
    """Return what an option is called in a file: its long form, without dashes."""
    return max(parameter.opts, key=len).lstrip("-")


def name_variables(command: click.Command, prefix: str) -> None:
    """
    Have each option of a command take its value from an environment variable as well.

    Options that every command has get none: theirs are those of the group.

    Args:
        command: Its options keep the variable that they have already.

        prefix: Before the option's long form: `UPLOAD_KIT_PUT` and `--chunk-size` make
            `UPLOAD_KIT_PUT_CHUNK_SIZE`.
    """
    for option in command.params:
        wanted = isinstance(option, click.Option) and (
            option.expose_value or isinstance(command, click.Group)
        )
        if wanted and option.envvar is None:
            name = f"{prefix}_{key_of(option)}"
            option.envvar = name.replace("-", "_").upper()


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
        command = self._lazy[cmd_name].load()
        if not isinstance(command, click.Group):
            name_variables(command, f"{VARIABLES}_{cmd_name}")
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the commands without importing any."""
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy[name].summary) for name in names])
