"""What options take: sizes, rates, headers, tokens; and the options that many share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from upload_kit.errors import ConfigurationError
from upload_kit.locations import redact
from upload_kit.logs import LogFormat, LogSettings, set_up_logging
from upload_kit.units import parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E", bound=StrEnum)
F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(slots=True)
class Settings:
    """What concerns every command; set by its options."""

    debug: bool = False
    """Whether errors come with their traceback."""

    verbosity: int = 0
    """How much is logged; see `LogSettings`."""

    log_format: LogFormat = LogFormat.TEXT
    """How log lines are written."""

    def set_up_logging(self) -> None:
        """Log to standard error as the options say."""
        set_up_logging(
            LogSettings(
                verbosity=self.verbosity, form=self.log_format, has_display=True
            )
        )

    def set_up_server_logging(self) -> None:
        """Log as a server does: its operator reads of every upload, without asking."""
        set_up_logging(
            LogSettings(verbosity=max(1, self.verbosity), form=self.log_format)
        )


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.2
    """A value that a function of `units` reads."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


class OneOf(click.Choice[E]):
    """One of an enumeration's values, as people write it."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:
        """Return the value rather than the name."""
        return str(choice)


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        # Not repeated in the message: a header's value is taken for a secret.
        raise ConfigurationError("Write a header like 'X-Name: value'.")
    return name.strip(), value.strip()


def _parse_positive_size(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise ConfigurationError("It must be above 0.")
    return size


def _parse_positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds > 0:
        raise ConfigurationError("It must be above 0.")
    return seconds


def _parse_moment(text: str) -> float:
    """Read a date, or how long ago it was; return seconds since the epoch."""
    try:
        return time.time() - parse_duration(text)
    except ConfigurationError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise ConfigurationError(
            f"Not a date: {text!r}.",
            hint="Write it like 2026-11-23, or 2d for a while ago.",
        ) from None


SIZE: Final = _Parsed("size", _parse_positive_size)
RATE: Final = _Parsed("rate", parse_rate)
SECONDS: Final = _Parsed("duration", _parse_positive_duration)
HEADER: Final = _Parsed("name:value", _parse_header)
MOMENT: Final = _Parsed("date", _parse_moment)


def common_options(command: F) -> F:
    """Add the options that every command has."""
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_set_verbosity,
        help="Log to standard error; twice for every request.",
    )
    log_format = click.option(
        "--log-format",
        type=OneOf(LogFormat),
        expose_value=False,
        callback=_set_log_format,
        help="How log lines are written: text (default), or json for programs.",
    )
    return debug(verbose(log_format(command)))


def common_values(ctx: click.Context) -> dict[tuple[str, str | None], object]:
    """Return what those options were given, by command path and parameter."""
    found: dict[tuple[str, str | None], object] = ctx.meta.setdefault(__name__, {})
    return found


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001 (click's signature)
    common_values(ctx)[ctx.command_path, param.name] = value
    if value:
        ctx.ensure_object(Settings).debug = True


def _set_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> None:
    common_values(ctx)[ctx.command_path, param.name] = value
    settings = ctx.ensure_object(Settings)
    settings.verbosity = max(settings.verbosity, value)
    settings.set_up_logging()


def _set_log_format(
    ctx: click.Context, param: click.Parameter, value: LogFormat | None
) -> None:
    common_values(ctx)[ctx.command_path, param.name] = value
    settings = ctx.ensure_object(Settings)
    if value is not None:
        settings.log_format = value
    settings.set_up_logging()


def refuse_in_clear(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    """
    Take a secret from anywhere but the command line.

    Raises:
        click.BadParameter: It stands there.
    """
    source = ctx.get_parameter_source(str(param.name))
    if value is None or source is not ParameterSource.COMMANDLINE:
        return value
    raise click.BadParameter(
        "Every user of this machine can read a secret that stands here;"
        f" set {param.envvar}, or use a settings file.",
        ctx,
        param,
    )


def refuse_secret_in_url(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    """Take a URL with a secret in it from anywhere but the command line."""
    if value is not None and "***" in redact(value):
        return refuse_in_clear(ctx, param, value)
    return value


def connection_options(command: F) -> F:
    """Add the options of whatever speaks to a destination."""
    token = click.option(
        "--token",
        envvar="UPLOAD_KIT_TOKEN",
        metavar="TOKEN",
        help="Bearer token; better in the environment, as UPLOAD_KIT_TOKEN.",
    )
    token_file = click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File whose first line is the token.",
    )
    header = click.option(
        "--header",
        "headers",
        type=HEADER,
        multiple=True,
        metavar="NAME:VALUE",
        help="Further request header; may be given many times.",
    )
    return token(token_file(header(command)))


def output_options(command: F) -> F:
    """Add the options that say what is printed."""
    json = click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object a line: progress, then the results.",
    )
    quiet = click.option(
        "-q", "--quiet", is_flag=True, help="Print nothing but errors."
    )
    return json(quiet(command))


session_dir_option: Final = click.option(
    "--session-dir",
    metavar="PLACE",
    help="Where sessions are kept: a folder, or a file that ends in .db.",
)


def read_token(token: str | None, token_file: Path | None) -> str | None:
    """
    Return the token that the options name.

    Raises:
        ConfigurationError: The file cannot be read, or is empty.
    """
    if token_file is None:
        return token or None
    try:
        lines = token_file.read_text().split("\n", 1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"Cannot read {token_file}: {error}.") from error
    if not lines[0].strip():
        raise ConfigurationError(f"The first line of {token_file} is empty.")
    return lines[0].strip()
