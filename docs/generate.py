"""
Write the pages of the documentation that the code can tell itself.

    python docs/generate.py          write them
    python docs/generate.py --check  fail if one of them is not up to date

A test runs the second, so that no table stays behind when an option, a route or a
destination changes.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import tempfile
from contextlib import aclosing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import upload_kit
from upload_kit.cli.lazy import VARIABLES, key_of
from upload_kit.cli.main import COMMANDS, cli
from upload_kit.config import Secret
from upload_kit.destinations.registry import make_destination, own_schemes
from upload_kit.models import UploadSpec
from upload_kit.server import ServerConfig, running_server
from upload_kit.server.openapi import openapi_document
from upload_kit.units import GB, GIB, KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from upload_kit.planning import Capabilities

DOCS: Final = Path(__file__).parent
_MARK: Final = "<!-- Written by docs/generate.py: change that, or the code. -->"
# Variables that are neither an option's nor a destination's.
_OTHER_VARIABLES: Final = {
    "UPLOAD_KIT_SESSION_DIR": "Folder of sessions and history, of the shell, of scripts"
    " and of notebooks; by default the platform's folder for state.",
    "UPLOAD_KIT_TOKEN": "Bearer token of `put`, `resume` and `cleanup`.",
    "UPLOAD_KIT_PROGRESS": "How a notebook shows uploads; see"
    " [the notebook](../notebook.md).",
    "SSL_CERT_FILE": "Certificates that are trusted instead of the system's.",
    "NO_COLOR": "If it is set, nothing is coloured.",
}


def pages() -> dict[Path, str]:
    """Return the text of every generated page, by its path."""
    made = {
        "reference/destinations.md": destinations_page(),
        "reference/http-api.md": http_page(),
        "reference/cli.md": cli_page(),
        "reference/settings.md": settings_page(),
        "reference/api.md": api_page(),
    }
    return {DOCS / name: f"{_MARK}\n\n{text.strip()}\n" for name, text in made.items()}


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Destinations


def destinations_page() -> str:
    """Return what every destination can do, as each of them says."""
    asked = asyncio.run(_ask_all())
    kinds = [[f"`{scheme}://`", doc] for scheme, (doc, _) in asked.items()]
    rows = [
        [
            f"`{scheme}://`",
            _lanes(found),
            "yes" if found.resumable else "no",
            "yes" if found.unknown_length else "no",
            _limits(found),
            _names(found.checksums),
            _names(found.whole_checksums),
            _names(found.encodings),
        ]
        for scheme, (_, found) in asked.items()
    ]
    titles = [
        "URL",
        "chunks at once",
        "resumes",
        "unknown size",
        "limits",
        "digest of a chunk",
        "digest of the file",
        "codings",
    ]
    return f"""# Destinations by capability

What each destination says of itself when it is asked, and what the planner and the
engine go by.
The `https` forms do the same as the `http` forms.

{table(["URL", "what it is"], kinds)}

`http://` and `https://` ask the server once which protocol it speaks, and then do the
same as the row of that protocol; a server that speaks none of them gets a plain `PUT`.

## What each can do

For a server the table shows the limits of `upload-kit serve` with its defaults; yours
says its own.

{table(titles, rows)}

- **chunks at once**: how many chunks of one file may travel at the same time.
- **resumes**: whether another process can go on with a half-done upload.
- **unknown size**: whether an upload may begin before its size is known.
- **digest of a chunk**: what the other side checks before it takes a chunk.
- **digest of the file**: what it compares in the end, for the whole file.
- **codings**: what a chunk may be compressed with on the way.

[Destinations](../destinations.md) says how to use each of them.
"""


async def _ask_all() -> dict[str, tuple[str, Capabilities]]:
    """Ask every destination what it is, and what it can do for a small file."""
    found_out = {"http", "https"}
    asked = [
        s for s in own_schemes() if s not in found_out and not s.endswith("+https")
    ]
    with tempfile.TemporaryDirectory() as folder, _credentials():
        config = ServerConfig(directory=folder, port=0)
        async with running_server(config) as server:
            return {scheme: await _ask(scheme, server.url) for scheme in asked}


async def _ask(scheme: str, server: str) -> tuple[str, Capabilities]:
    special = {
        "file": "file:///tmp/",
        "native+http": f"native+{server}",
        "tus+http": f"tus+{server}files/",
        "ietf+http": f"ietf+{server}upload/foundation",
        "put+http": f"put+{server}",
        "gemini": "gemini://",
    }
    # Without a size the Gemini API is not asked, and tells its limits all the same.
    spec = UploadSpec(name="a.bin", size=None if scheme == "gemini" else 1)
    url = special.get(scheme, f"{scheme}://docs/")
    async with aclosing(make_destination(url)) as destination:
        return _doc(destination), await destination.negotiate(spec)


@contextmanager
def _credentials() -> Iterator[None]:
    """Have credentials that nobody is shown, for those that look for some first."""
    ours = {
        "AWS_ACCESS_KEY_ID": "docs",
        "AWS_SECRET_ACCESS_KEY": "docs",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "GEMINI_API_KEY": "docs",
    }
    before = dict(os.environ)
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _doc(destination: object) -> str:
    """Return the first paragraph of the module that a destination is in."""
    doc = inspect.getdoc(import_module(type(destination).__module__)) or ""
    return doc.split("\n\n")[0]


def _lanes(found: Capabilities) -> str:
    if found.lanes is None:
        return "any, in any order"
    return "1, in order" if found.lanes == 1 else f"at most {found.lanes}"


def _limits(found: Capabilities) -> str:
    said = []
    if found.max_chunks == 1:
        said.append("one piece")
    elif found.max_chunks is not None:
        said.append(f"{found.max_chunks:,} chunks")
    if found.min_chunk > 1:
        said.append(f"chunks from {_size(found.min_chunk)}")
    if found.max_chunk is not None:
        said.append(f"chunks to {_size(found.max_chunk)}")
    if found.chunk_multiple > 1:
        said.append(f"multiples of {_size(found.chunk_multiple)}")
    if found.max_size is not None:
        said.append(f"files to {_size(found.max_size)}")
    if found.expires_after is not None:
        said.append(f"kept {found.expires_after / 3600:g} h")
    return ", ".join(said) or "-"


def _size(size: int) -> str:
    """Return a limit as its makers write it: 5 MiB, 2 GB, 48.8 TiB."""
    if size % GB == 0 and size % GIB:
        return f"{size // GB} GB"
    for factor, unit in ((1024 * GIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def _names(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "-"


# HTTP


def http_page() -> str:
    """Return the routes of the server, from its OpenAPI document."""
    config = ServerConfig(directory="store", tokens=(Secret("docs:docs"),))
    document = openapi_document(config)
    parts = [
        "# HTTP API",
        _HTTP_INTRODUCTION,
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method.upper(), path, operation))
    parts.append("## Documents")
    for name, schema in document["components"]["schemas"].items():
        if schema.get("properties"):
            parts.append(_schema(name, schema))
    return "\n\n".join(parts)


_HTTP_INTRODUCTION: Final = """
Every server tells the same at `/openapi.json`.
All but the routes marked *open* want `Authorization: Bearer TOKEN`, if the server has
tokens.
An error is a JSON document of type `application/problem+json` (RFC 9457) with `type`,
`title`, `status`, `detail` and `next_step`.
[The server](../server.md) says how to run one, and
[the protocol](../dev/native-protocol.md) what both ends promise.
""".strip()


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    is_open = operation.get("security") == []
    lines = [f"## `{method} {path}`", operation["summary"] + (" *Open.*" * is_open)]
    if parameters := operation.get("parameters"):
        rows = [
            [
                f"`{one['name']}`",
                one["in"],
                "yes" if one.get("required") else "no",
                _type(one.get("schema", {})),
            ]
            for one in parameters
        ]
        lines.append(table(["parameter", "in", "required", "type"], rows))
    if body := operation.get("requestBody"):
        lines.append(f"Body: {_content(body.get('content', {}))}.")
    rows = [
        [status, _response(answer)] for status, answer in operation["responses"].items()
    ]
    lines.append(table(["status", "answer"], rows))
    return "\n\n".join(lines)


def _response(answer: Mapping[str, Any]) -> str:
    content = answer.get("content", {})
    if "application/problem+json" in content or not content:
        return str(answer.get("description", ""))
    return _content(content)


def _content(content: Mapping[str, Any]) -> str:
    said = []
    for media, one in content.items():
        schema = one.get("schema", {})
        said.append(f"`{media}`" + (f": {_type(schema)}" if "$ref" in schema else ""))
    return ", ".join(said)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        [f"`{key}`", "yes" if key in required else "no", _type(one)]
        for key, one in schema["properties"].items()
    ]
    return f"### {name}\n\n{table(['member', 'always', 'type'], rows)}"


def _type(schema: Mapping[str, Any]) -> str:
    """Return a schema as a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "object" if name == "Any" else f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    kinds = schema.get("type", "any")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "array" in kinds:
        of = f"list of {_type(schema.get('items', {}))}"
        return " or ".join([of, *(kind for kind in kinds if kind != "array")])
    said = " or ".join(kinds)
    return said + (f" `{schema['pattern']}`" if "pattern" in schema else "")


# Command line


def cli_page() -> str:
    """Return every command with its options, from the commands themselves."""
    summaries = [[f"[`{n}`](#{n})", c.summary] for n, c in _commands().items()]
    parts = [
        "# Command line",
        "```text\nupload-kit [OPTIONS] COMMAND [ARGS]...\n```",
        _prose(cli),
        table(["command", "what it does"], summaries),
        "## Options of every command",
        _COMMON_OPTIONS,
        _options(cli.params),
        _ELSEWHERE,
    ]
    root = click.Context(cli, info_name="upload-kit")
    for name in _commands():
        command = cli.get_command(root, name)
        assert command is not None
        parts.append(_command(click.Context(command, parent=root, info_name=name)))
    return "\n\n".join(parts)


_COMMON_OPTIONS: Final = """
They may stand before the command or after it; `--config` and `--version` only before.
""".strip()
_ELSEWHERE: Final = """
Each option may also be set by an environment variable, or in a file:
[settings](settings.md).
""".strip()


def _commands() -> Mapping[str, Any]:
    """Return the commands that there are, in the order of `--help`."""
    root = click.Context(cli)
    return {name: COMMANDS[name] for name in cli.list_commands(root)}


def _command(ctx: click.Context, depth: int = 2) -> str:
    command = ctx.command
    # Without the program's own name, as a heading can be linked to.
    name = ctx.command_path.partition(" ")[2]
    parts = [
        f"{'#' * depth} {name}",
        f"```text\n{command.get_usage(ctx).removeprefix('Usage: ')}\n```",
        _prose(command),
    ]
    own = [one for one in command.params if isinstance(one, click.Option)]
    if shown := [one for one in own if one.expose_value]:
        parts.append(_options(shown))
    if isinstance(command, click.Group):
        for below in command.list_commands(ctx):
            found = command.get_command(ctx, below)
            assert found is not None
            inner = click.Context(found, parent=ctx, info_name=below)
            parts.append(_command(inner, depth + 1))
    return "\n\n".join(parts)


def _prose(command: click.Command) -> str:
    """Return a command's help; its paragraphs are Markdown already."""
    return inspect.cleandoc(command.help or "").replace("\b\n", "")


def _options(options: Iterable[click.Parameter]) -> str:
    rows = [
        [
            ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts)),
            _metavar(option),
            _default(option),
            option.help or "",
        ]
        for option in options
        if isinstance(option, click.Option) and key_of(option) != "help"
    ]
    return table(["option", "takes", "default", "what it does"], rows)


def _metavar(option: click.Option) -> str:
    if option.is_flag or option.count:
        return "-"
    if isinstance(option.type, click.Choice):
        return " ".join(f"`{_plain(choice)}`" for choice in option.type.choices)
    word = (option.metavar or option.type.name).lower().replace(" range", "")
    return f"{word}, many times" if option.multiple else word


def _default(option: click.Option) -> str:
    value = option.default
    # Until click 8.3 an option without a default has None, since then a mark.
    if option.is_flag or option.multiple or option.count:
        return "-"
    if isinstance(value, str) and value:
        return f"`{_plain(value)}`"
    if isinstance(value, int | float) and not isinstance(value, bool):
        is_size = option.type.name == "size"
        return f"`{_size(int(value)).replace(' ', '') if is_size else value}`"
    return "-"


def _plain(value: object) -> str:
    return str(getattr(value, "value", value))


# Settings


def settings_page() -> str:
    """Return where each option may be set besides the command line."""
    root = click.Context(cli, info_name="upload-kit")
    parts = [
        "# Settings",
        _SETTINGS_INTRODUCTION.strip(),
        "## Every command",
        _settings(cli.params),
    ]
    for name in _commands():
        command = cli.get_command(root, name)
        assert command is not None
        options = [one for one in command.params if getattr(one, "expose_value", 0)]
        if not isinstance(command, click.Group) and options:
            parts += [f"## `[{name}]`", _settings(options)]
    parts += [
        "## Other variables",
        table(
            ["variable", "what it does"],
            [[f"`{name}`", text] for name, text in _OTHER_VARIABLES.items()],
        ),
    ]
    return "\n\n".join(parts)


def _settings(options: Iterable[click.Parameter]) -> str:
    hidden = {"help", "version"}
    rows = [
        [
            "-" if key_of(one) == "config" else f"`{key_of(one)}`",
            f"`{one.envvar}`",
            _toml_type(one),
            one.help or "",
        ]
        for one in options
        if isinstance(one, click.Option) and key_of(one) not in hidden
    ]
    return table(["in a file", "variable", "value", "what it does"], rows)


def _toml_type(option: click.Option) -> str:
    if option.is_flag:
        return "true or false"
    word = "number" if option.count else _metavar(option)
    return f"list of {word.removesuffix(', many times')}" if option.multiple else word


_SETTINGS_INTRODUCTION: Final = f"""
A setting may come from four places; the first one that has it wins:

1. a flag on the command line,
2. an environment variable, `{VARIABLES}_...`,
3. a TOML file,
4. its default.

Files are `upload-kit.toml` in the working folder and `upload-kit.toml` in your
configuration folder (on Linux `~/.config/upload_kit/`); the working folder's wins,
setting by setting.
`--config FILE`, or the variable `{VARIABLES}_CONFIG`, names a file to be read instead
of both.

```toml
log-format = "json"         # for every command
session-dir = "/srv/state"  # for every command that has it

[put]
parallel = 6
chunk-size = "16MiB"

[serve]
dir = "/srv/store"
max-size = "50GB"
```

A key that does not exist is an error that says which one was meant, and so is a value
that its option would not take.
`upload-kit config show` prints every setting in force and where it comes from; it shows
no secrets.
`upload-kit config show put --parallel 8` prints what that command line would do.
"""


# Python


def api_page() -> str:
    """Return every public name with its first sentence, and mkdocstrings' directive."""
    groups: dict[str, list[str]] = {}
    for name in upload_kit.__all__:
        if name != "__version__":
            groups.setdefault(_group(name), []).append(name)
    parts = ["# Python API", _API_INTRODUCTION]
    for title in dict.fromkeys(_GROUPS.values()):
        names = groups.get(title, [])
        rows = [[f"[`{name}`](#{name.lower()})", _summary(name)] for name in names]
        parts += [f"## {title}", table(["name", "what it is"], rows)]
        parts += [_directive(name) for name in names]
    for title, homes in _FURTHER.items():
        rows = [[f"`{home}`", _first_sentence(_find(home))] for home in homes]
        parts += [f"## {title}", table(["where", "what it is"], rows)]
        parts += [_directive_of(home) for home in homes]
    return "\n\n".join(parts)


_API_INTRODUCTION: Final = """
Everything that is public is imported from `upload_kit`; what is not named here may
change.
The same pages are the docstrings: `help(upload_kit.upload)`.
""".strip()

# Which part of the page a name is in, by the beginning of its module's name.
_GROUPS: Final[dict[str, str]] = {
    "notebook": "Functions",
    "api": "Functions",
    "uploaders": "Uploaders",
    "transfer": "Uploaders",
    "models": "Records",
    "events": "Records",
    "config": "Options",
    "progress": "Parts",
    "sessions": "Parts",
    "throttle": "Parts",
    "errors": "Errors",
}


# What those above refer to, and what programs of one's own are built with.
_FURTHER: Final[dict[str, tuple[str, ...]]] = {
    "Keywords": (
        "api.keywords.UploadKeywords",
        "api.keywords.ConnectionKeywords",
        "uploaders.options.FileOptions",
        "uploaders.options.UploaderOptions",
    ),
    "Server": (
        "server.config.ServerConfig",
        "server.config.Durability",
        "server.app.running_server",
        "server.app.RunningServer",
    ),
    "Log lines": (
        "logs.IdFilter",
        "logs.TextFormatter",
        "logs.JsonFormatter",
    ),
    "Ports": (
        "destinations.base.Destination",
        "destinations.base.RemoteUpload",
        "destinations.registry.register",
        "planning.Capabilities",
        "sessions.base.SessionStore",
    ),
}


def _find(home: str) -> object:
    module, _, name = home.rpartition(".")
    return getattr(import_module(f"upload_kit.{module}"), name)


def _directive_of(home: str) -> str:
    """Return the directive of what is not imported from the package itself."""
    lines = [
        f"### {home.rpartition('.')[2]}",
        "",
        f"::: upload_kit.{home}",
        "    options:",
        "      show_if_no_docstring: true",
    ]
    return "\n".join(lines)


def _home(name: str) -> str:
    return str(getattr(upload_kit, name).__module__).removeprefix("upload_kit.")


def _group(name: str) -> str:
    home = _home(name)
    found = next((one for one in _GROUPS if home.startswith(one)), None)
    if found is not None:
        return _GROUPS[found]
    return "Functions" if callable(getattr(upload_kit, name)) else "Parts"


def _summary(name: str) -> str:
    return _first_sentence(getattr(upload_kit, name))


def _first_sentence(one: object) -> str:
    return (inspect.getdoc(one) or "").split("\n\n")[0]


def _directive(name: str) -> str:
    return f"### {name}\n\n::: upload_kit.{_home(name)}.{name}"


def main(words: Sequence[str]) -> int:
    """Write the pages, or only compare them; return the exit code."""
    stale = []
    for path, text in pages().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(DOCS.parent))
        if "--check" not in words:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    verb: Callable[[object], str]
    verb = "{} is not up to date: run python docs/generate.py".format
    if "--check" not in words:
        verb = "Written: {}".format
    for path in stale:
        print(verb(path))
    return 1 if stale and "--check" in words else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
