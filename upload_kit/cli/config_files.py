"""Settings in TOML files: found, checked against the options, handed to click."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import platformdirs

from upload_kit.cli.lazy import key_of
from upload_kit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FILE_NAME: Final = "upload-kit.toml"
"""What a file is called in the working folder and in the user's config folder."""

FILES: Final = __name__
"""Where the group's context keeps what the files say."""

# Says which file there is, so it cannot stand in one.
_NOT_IN_FILES: Final = frozenset({"config", "help", "version"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """What the files say, for every command."""

    files: tuple[Path, ...] = ()
    """Those that were read, the one that wins first."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """As click's `default_map` has it: by parameter, and by command and parameter."""

    origins: Mapping[tuple[str | None, str], Path] = field(default_factory=dict)
    """Which file a value is from, by command (None for all) and parameter."""


def default_files() -> list[Path]:
    """Return where files are looked for, the one that wins first."""
    folder = platformdirs.user_config_path("upload_kit", appauthor=False)
    return [Path(FILE_NAME), folder / FILE_NAME]


def load_settings(ctx: click.Context, file: Path | None) -> FileSettings:
    """
    Read the files and check every key and value of them.

    What stands above the tables is for every command that has such an option; a table
    is for the command of its name, and wins. A file in the working folder wins over
    the user's, setting by setting.

    Args:
        ctx: That of the group of all commands.

        file: The only one to read; None for those in the usual places.

    Raises:
        ConfigurationError: A file cannot be read, or a key or value in it is wrong.
    """
    paths = [file] if file else [path for path in default_files() if path.is_file()]
    defaults: dict[str, Any] = {}
    origins: dict[tuple[str | None, str], Path] = {}
    # The one that wins comes last, and a table after what is for every command.
    for path in reversed(paths):
        for command, name, value in _Reader(ctx, path).settings():
            table = defaults if command is None else defaults.setdefault(command, {})
            table[name] = value
            origins[command, name] = path
    return FileSettings(files=tuple(paths), defaults=defaults, origins=origins)


class _Reader:
    """Reads one file; its messages name it."""

    def __init__(self, ctx: click.Context, path: Path) -> None:
        assert isinstance(ctx.command, click.Group)
        self._ctx = ctx
        self._group = ctx.command
        self._path = path

    def settings(self) -> Iterator[tuple[str | None, str, Any]]:
        """Yield command (None for the group), parameter and value; tables last."""
        content = _read(self._path)
        for key, value in content.items():
            if not isinstance(value, dict):
                yield from self._above_tables(key, value)
        for name, table in content.items():
            if isinstance(table, dict):
                yield from self._table(name, table)

    def _above_tables(
        self, key: str, value: object
    ) -> Iterator[tuple[str | None, str, Any]]:
        parameters = _by_key(self._group)
        if key in parameters:
            parameter = parameters[key]
            yield None, str(parameter.name), self._value(None, parameter, value)
            return
        having = {
            name: found[key]
            for name, command in self._commands()
            if key in (found := _by_key(command))
        }
        if not having:
            known = {*parameters, *(k for _, c in self._commands() for k in _by_key(c))}
            raise self._unknown("setting", key, sorted(known))
        if len({_meaning(parameter) for parameter in having.values()}) > 1:
            tables = ", ".join(f"[{name}]" for name in having)
            raise ConfigurationError(
                f"{self._path}: {key!r} means different things in {tables}.",
                hint="Write it in one of these tables.",
            )
        for name, parameter in having.items():
            yield name, str(parameter.name), self._value(name, parameter, value)

    def _table(
        self, name: str, table: Mapping[str, object]
    ) -> Iterator[tuple[str | None, str, Any]]:
        commands = dict(self._commands())
        if name not in commands:
            raise self._unknown("table", name, list(commands))
        parameters = _by_key(commands[name])
        for key, value in table.items():
            if key not in parameters:
                raise self._unknown("setting", key, list(parameters), table=name)
            parameter = parameters[key]
            yield name, str(parameter.name), self._value(name, parameter, value)

    def _commands(self) -> Iterator[tuple[str, click.Command]]:
        """Yield what can have a table: commands, not groups of them."""
        for name in self._group.list_commands(self._ctx):
            command = self._group.get_command(self._ctx, name)
            if command is not None and not isinstance(command, click.Group):
                yield name, command

    def _value(
        self, command: str | None, parameter: click.Option, value: object
    ) -> object:
        """Return what click takes for it, once click has found nothing wrong."""
        where = f"{self._path}: {f'[{command}] ' if command else ''}{key_of(parameter)}"
        plain = _plain(parameter, value)
        if plain is None:
            wanted = "true or false" if parameter.is_flag else "a text or a number"
            raise ConfigurationError(f"{where}: {wanted} is wanted, not {value!r}.")
        try:
            parameter.type_cast_value(self._ctx, plain)
        except click.ClickException as error:
            raise ConfigurationError(f"{where}: {error.message}") from error
        return plain

    def _unknown(
        self, kind: str, key: str, known: Sequence[str], *, table: str | None = None
    ) -> ConfigurationError:
        near = difflib.get_close_matches(key, known, 1)
        return ConfigurationError(
            f"{self._path}: unknown {kind} {key!r}{f' in [{table}]' if table else ''}.",
            hint=f"Did you mean {near[0]!r}?"
            if near
            else f"Known are {', '.join(known)}.",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read {path}: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}.") from error


def _by_key(command: click.Command) -> dict[str, click.Option]:
    return {
        key_of(parameter): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        and key_of(parameter) not in _NOT_IN_FILES
    }


def _meaning(option: click.Option) -> tuple[object, ...]:
    return (option.help, option.is_flag, option.multiple, type(option.type))


def _plain(option: click.Option, value: object) -> object:
    """
    Return a TOML value as it would come from the command line; None if it cannot.

    Numbers become text, so that they are checked exactly as an option's are.
    """
    if option.multiple:
        items = value if isinstance(value, list) else [value]
        texts = [_text(item) for item in items]
        return None if None in texts else texts
    if option.is_flag:
        return value if isinstance(value, bool) else None
    return _text(value)


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(
        value, str | int | float | date | time | datetime
    ):
        return None
    return value.isoformat() if isinstance(value, date | time) else str(value)
