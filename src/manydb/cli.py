"""The command line: arguments in, one call out. What a command needs is imported when it runs."""

import argparse
import gc
import os
import sys
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from manydb import __version__
from manydb.errors import ManydbError, SettingsError

if TYPE_CHECKING:  # at run time the help and the version come without them
    from fastmcp import FastMCP

    from manydb import reception
    from manydb.admission import AdmissionPolicy
    from manydb.settings import Settings

T = TypeVar("T")

_FORMATS = ("json", "csv", "markdown", "records")  # a test compares it with the settings'
_CONNECTIONS = """\
connections come from all of these, each name from one of them:
  --connection sales=postgresql://user:password@host/database
  the variable MANYDB_CONNECTIONS (JSON)
  [connections.NAME] tables of manydb.toml (--config, MANYDB_CONFIG or the current folder's)
  the variable DATABASE_URL, where the others name none; it is called "default"
A URL's ${VARIABLE} is replaced, so that passwords need not stand in files or process lists."""
_EXAMPLES = """\
examples:
  manydb demo
  manydb serve --connection sales=postgresql://user@host/sales --connection hr=sqlite:///hr.db
  manydb query hr "SELECT * FROM people WHERE name LIKE :like" --param like=A% --connection hr=sqlite:///hr.db

manydb COMMAND --help tells more."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 it worked, 1 it did not, 2 the arguments or settings are wrong."""
    # FastMCP would read a .env of the current folder, and ask the network for updates.
    os.environ.setdefault("FASTMCP_ENV_FILE", os.devnull)
    os.environ.setdefault("FASTMCP_CHECK_FOR_UPDATES", "off")
    os.environ.setdefault("FASTMCP_LOG_ENABLED", "false")  # our own logging shows what it has to say
    chosen = _parser().parse_args(arguments)
    gc.disable()  # importing makes no garbage: collecting meanwhile is a fifth of the start
    try:
        code = chosen.run(chosen)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(code)
    except SettingsError as exc:
        sys.exit(_complain(exc.message, 2))
    except ManydbError as exc:
        sys.exit(_complain("\n  ".join([f"{exc.code}: {exc.message}", *_lessons(exc)]), 1))
    except BrokenPipeError:
        # Whoever read us has enough, as `head` does; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.enable()


def _lessons(error: ManydbError) -> list[str]:
    facts = {"suggestions": ", ".join(error.suggestions), **error.details}
    return [f"{name}: {fact}" for name, fact in facts.items() if fact]


def _complain(message: str, code: int) -> int:
    print(f"manydb: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manydb",
        description="One MCP server in front of many SQL databases.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"manydb {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = _command(commands, "serve", _serve, "serve the configured databases to MCP clients")
    _add_settings(serve)
    _add_transport(serve)

    query = _command(commands, "query", _query, "ask one of the configured databases from the shell")
    query.add_argument("name", help="the connection's name")
    query.add_argument("sql", help="one statement that reads")
    query.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="value of a :name placeholder"
    )
    query.add_argument("--rows", type=_count, metavar="N", help="most rows to show (default: the setting row_cap, 100)")
    query.add_argument(
        "--format", choices=_FORMATS, help="how to write rows (default: a table in a terminal, else the setting format)"
    )
    _add_settings(query)

    check = _command(commands, "check", _check, "try every configured database and say what answers")
    _add_settings(check)

    demo = _command(commands, "demo", _demo, "build the demo shop and show what manydb does with it")
    demo.add_argument("--serve", action="store_true", help="serve the demo shop instead")
    demo.add_argument("--scale", type=_count, default=1, metavar="N", help="N times the data (default 1)")
    demo.add_argument("--url", help="build it there (MANYDB_DEMO_URL; default a SQLite file in a temporary folder)")
    _add_transport(demo)
    return parser


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    description = summary[0].upper() + summary[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or (number := int(text)) == 0:
        raise argparse.ArgumentTypeError(f"a number from 1 on, not {text!r}")
    return number


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _CONNECTIONS
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (default ./manydb.toml, if there)")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read variables from this file too")
    parser.add_argument("--connection", action="append", default=[], metavar="NAME=URL", help="a database; may repeat")


def _add_transport(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio", help="default stdio")
    parser.add_argument("--host", help="where HTTP listens (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="its port (default 8000)")
    parser.add_argument("--workers", type=_count, metavar="N", help="processes that serve HTTP (default 1)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default warning")


def _settings(chosen: argparse.Namespace) -> "Settings":
    from manydb.settings import Settings  # noqa: PLC0415

    if chosen.env_file is not None:
        if not chosen.env_file.is_file():
            raise SettingsError(f"--env-file: cannot read {chosen.env_file}")
        from dotenv import load_dotenv  # noqa: PLC0415 - only where a file is named

        load_dotenv(chosen.env_file, override=False)
    overrides = {
        key: value
        for key in ("host", "port", "workers", "log_level")
        if (value := getattr(chosen, key, None)) is not None
    }
    pairs = _pairs("--connection", "NAME=URL", chosen.connection)
    return Settings.load(chosen.config, connections=pairs, overrides=overrides)


def _pairs(option: str, form: str, texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or "://" in name:
            raise SettingsError(f"{option} takes {form}")
        if name in pairs:
            raise SettingsError(f"{option} {name} is given twice")
        pairs[name] = value
    return pairs


def _serve(chosen: argparse.Namespace) -> int:
    return _serve_settings(_settings(chosen), chosen.transport)


def _serve_settings(settings: "Settings", transport: str) -> int:
    from manydb import logs  # noqa: PLC0415
    from manydb.admission import AdmissionPolicy  # noqa: PLC0415
    from manydb.connections import Connections  # noqa: PLC0415

    local = transport == "stdio"
    # A contradiction ends the start here, before anything is opened.
    Connections.configured(settings)
    policy = AdmissionPolicy.configured(settings, local=local)
    if local and settings.workers > 1:
        raise SettingsError(
            f"{settings.place('workers')}: over stdio one process serves its one client; workers are for HTTP"
        )
    logs.to_stderr(settings)
    if settings.workers > 1:
        from manydb import workers  # noqa: PLC0415

        _run(workers.serve(settings))
        return 0
    if transport == "http":
        from manydb.transports import serve_http  # noqa: PLC0415

        _run(serve_http(_server(settings, local=local), settings))
        return 0
    if sys.stdin is not None and sys.stdin.isatty():
        print("manydb: speaking MCP on standard input and output, as a client expects; Ctrl-C ends it", file=sys.stderr)
    _serve_stdio(settings, policy)
    return 0


def _serve_stdio(settings: "Settings", policy: "AdmissionPolicy | None") -> None:
    if sys.platform == "win32":
        # Its event loops cannot wait for its standard handles.
        _run(_server(settings, local=True).run_stdio_async(show_banner=False))
    elif sys.stdin is not None and sys.stdout is not None:  # None where they were closed: there is no client then
        from manydb import loops, reception  # noqa: PLC0415
        from manydb.manifest import Manifest  # noqa: PLC0415

        def load() -> "reception.Serve":
            from manydb.transports import serve_client  # noqa: PLC0415 - as FastMCP in _server

            return partial(serve_client, _server(settings, local=True))

        loops.run(reception.serve(Manifest.stored(settings, policy), load))


def _server(settings: "Settings", *, local: bool) -> "FastMCP[Any]":
    # FastMCP takes most of a start to import: not before settings are right, nor, over stdio, the client was answered.
    from manydb.server import build_server  # noqa: PLC0415

    server = build_server(settings, local=local)
    gc.freeze()  # what was imported stays: no later collection looks through it
    gc.enable()
    return server


def _run(work: Coroutine[Any, Any, T]) -> T:
    gc.enable()
    from manydb import loops  # noqa: PLC0415

    return loops.run(work)


def _query(chosen: argparse.Namespace) -> int:
    from manydb import shell  # noqa: PLC0415

    params = _pairs("--param", "NAME=VALUE", chosen.param)
    return _run(
        shell.query(
            _settings(chosen), chosen.name, chosen.sql, params or None, row_cap=chosen.rows, format_name=chosen.format
        )
    )


def _check(chosen: argparse.Namespace) -> int:
    from manydb import shell  # noqa: PLC0415

    return _run(shell.check(_settings(chosen)))


def _demo(chosen: argparse.Namespace) -> int:
    from manydb import demo  # noqa: PLC0415

    url = chosen.url or os.environ.get("MANYDB_DEMO_URL")
    if not chosen.serve:
        return _run(demo.tour(url, chosen.scale))
    with demo.shop_url(url) as shop:
        _run(demo.build(shop, chosen.scale))
        settings = demo.settings(shop, {key: getattr(chosen, key) for key in ("host", "port", "workers", "log_level")})
        return _serve_settings(settings, chosen.transport)
