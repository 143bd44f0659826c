"""`upload-kit config`: which settings are in force, and where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from upload_kit.cli.config_files import (
    FILES,
    FileSettings,
    default_files,
)
from upload_kit.cli.lazy import key_of
from upload_kit.cli.parameters import common_options, common_values
from upload_kit.locations import redact
from upload_kit.sessions.places import default_session_dir
from upload_kit.terminal.table import Column, format_table
from upload_kit.terminal.words import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDDEN: Final = "***"
_SECRETS: Final = frozenset({"token", "tokens", "api_key", "forward-token"})
_COLUMNS: Final = (
    Column(title="SETTING"),
    Column(title="VALUE"),
    Column(title="FROM"),
)


class Origin(StrEnum):
    """Where a value comes from; an earlier one wins."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


_ORIGINS: Final = {
    ParameterSource.COMMANDLINE: Origin.FLAG,
    ParameterSource.ENVIRONMENT: Origin.ENVIRONMENT,
    ParameterSource.DEFAULT_MAP: Origin.FILE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One option of one command, as it is in force."""

    command: str | None
    """Which command's; None for that of every command."""

    key: str
    """What it is called in a file."""

    value: str | int | float | bool | list[str] | None
    """Without secrets; None if it is not set."""

    origin: Origin
    """What kind of place it comes from."""

    where: str | None
    """Which variable or file; None for flags and defaults."""

    @property
    def name(self) -> str:
        """Command and key, as one word."""
        return self.key if self.command is None else f"{self.command}.{self.key}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "command": self.command,
            "key": self.key,
            "value": self.value,
            "origin": self.origin.value,
            "where": self.where,
        }


@click.group
def config() -> None:
    """Show which settings are in force."""


@config.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@common_options
@click.argument("command", required=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def show(
    ctx: click.Context, *, command: str | None, options: tuple[str, ...], as_json: bool
) -> None:
    """
    Show every setting in force, and where it comes from.

    With a COMMAND only its settings, as they would be with the OPTIONS that follow it:
    `upload-kit config show put --parallel 8`. Flags win over the environment, which
    wins over files, which win over defaults. Secrets are not shown.
    """
    root = ctx.find_root()
    settings = list(settings_in_force(root, command, options))
    if as_json:
        for setting in settings:
            click.echo(json.dumps(setting.to_dict()))
        return
    click.echo(format_table(_COLUMNS, [_row(setting) for setting in settings]))
    if command is None:
        click.echo()
        _echo_places(_files(root))


def settings_in_force(
    root: click.Context, command: str | None = None, arguments: tuple[str, ...] = ()
) -> Iterator[Setting]:
    """
    Yield the settings of the group and its commands, or of one command.

    Args:
        root: Context of the group of all commands.

        command: Only this one; None for all.

        arguments: What else would stand on its command line.

    Raises:
        click.UsageError: There is no such command, or its options cannot be.
    """
    group = root.command
    assert isinstance(group, click.Group)
    if command is None:
        yield from _settings(root, None)
    for name in group.list_commands(root) if command is None else [command]:
        found = group.get_command(root, name)
        if found is None:
            raise click.UsageError(f"No such command {name!r}.", root)
        if not isinstance(found, click.Group):
            # It need not be complete: nothing is going to be run.
            ctx = found.make_context(
                name, list(arguments), parent=root, resilient_parsing=True
            )
            yield from _settings(ctx, name)


def _settings(ctx: click.Context, command: str | None) -> Iterator[Setting]:
    files = _files(ctx.find_root())
    for option in ctx.command.params:
        name = str(option.name)
        if not isinstance(option, click.Option) or name in {"help", "version"}:
            continue
        origin = _ORIGINS.get(
            ctx.get_parameter_source(name) or ParameterSource.DEFAULT, Origin.DEFAULT
        )
        where = {
            Origin.ENVIRONMENT: str(option.envvar),
            Origin.FILE: str(files.origins.get((command, name), "")),
        }.get(origin)
        value = _value(ctx, option)
        if origin in {Origin.FLAG, Origin.ENVIRONMENT} and value is None:
            place = where or f"--{key_of(option)}"
            raise click.UsageError(f"The value of {place} cannot be used.", ctx)
        if command and not option.expose_value and origin is Origin.DEFAULT:
            continue  # What every command has is told once.
        yield Setting(
            command=command,
            key=key_of(option),
            value=_shown(option, value),
            origin=origin,
            where=where,
        )


def _value(ctx: click.Context, option: click.Option) -> Any:
    """Return the value, also of an option that only has a callback."""
    if option.expose_value:
        return ctx.params.get(str(option.name))
    return common_values(ctx).get((ctx.command_path, option.name))


def _shown(option: click.Option, value: Any) -> Any:
    """Return a value as plain JSON types, without secrets."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_shown_item(option, item) for item in value]
    if key_of(option) in _SECRETS:
        return HIDDEN
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, bool | int | float) else redact(str(value))


def _shown_item(option: click.Option, item: object) -> str:
    """Return one of several values; what comes in pairs is a header, and secret."""
    if isinstance(item, tuple):
        return f"{item[0]}: {HIDDEN}"
    return HIDDEN if key_of(option) in _SECRETS else redact(str(item))


def _files(root: click.Context) -> FileSettings:
    settings = root.meta.get(FILES)
    return settings if isinstance(settings, FileSettings) else FileSettings()


def _row(setting: Setting) -> list[str]:
    where = setting.origin.value
    if setting.where:
        where = f"{where} {setting.where}"
    return [setting.name, printable(_text(setting)), printable(where)]


def _text(setting: Setting) -> str:
    value = setting.value
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _echo_places(files: FileSettings) -> None:
    for path in dict.fromkeys([*files.files, *default_files()]):
        state = "read" if path in files.files else "not there, or not used"
        click.echo(f"File: {printable(str(path))} ({state})")
    click.echo(f"Sessions and history: {printable(str(default_session_dir()))}")
