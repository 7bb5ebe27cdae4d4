"""The command line: arguments in, one call out. What a command needs is imported when it runs."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from manydb import __version__
from manydb.errors import ManydbError, SettingsError
from manydb.settings import Format, Settings


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 it worked, 1 it did not, 2 the arguments or settings are wrong."""
    # FastMCP would read a .env of the current folder, and ask the network for updates.
    os.environ.setdefault("FASTMCP_ENV_FILE", os.devnull)
    os.environ.setdefault("FASTMCP_CHECK_FOR_UPDATES", "off")
    os.environ.setdefault("FASTMCP_LOG_ENABLED", "false")  # our own logging shows what it has to say
    chosen = _parser().parse_args(arguments)
    try:
        sys.exit(chosen.run(chosen))
    except SettingsError as exc:
        sys.exit(_complain(exc.message, 2))
    except ManydbError as exc:
        hints = f"\n  did you mean {', '.join(exc.suggestions)}?" if exc.suggestions else ""
        sys.exit(_complain(f"{exc.code}: {exc.message}{hints}", 1))
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(message: str, code: int) -> int:
    print(f"manydb: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manydb", description="One MCP server in front of many SQL databases.")
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
    query.add_argument("--rows", type=int, metavar="N", help="most rows to show")
    query.add_argument("--format", choices=get_args(Format), help="how to write rows; a table in a terminal")
    _add_settings(query)

    check = _command(commands, "check", _check, "try every configured database and say what answers")
    _add_settings(check)

    demo = _command(commands, "demo", _demo, "build the demo shop and show what manydb does with it")
    demo.add_argument("--serve", action="store_true", help="serve the demo shop instead")
    demo.add_argument("--scale", type=int, default=1, metavar="N", help="N times the data (default 1)")
    demo.add_argument("--url", help="build it there (MANYDB_DEMO_URL; default a SQLite file in a temporary folder)")
    _add_transport(demo)
    return parser


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    parser.set_defaults(run=run)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (default ./manydb.toml, if there)")
    parser.add_argument("--env-file", type=Path, metavar="FILE", help="read variables from this file too")
    parser.add_argument("--connection", action="append", default=[], metavar="NAME=URL", help="a database; may repeat")


def _add_transport(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio", help="default stdio")
    parser.add_argument("--host", help="where HTTP listens (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="its port (default 8000)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="default warning")


def _settings(chosen: argparse.Namespace) -> Settings:
    if chosen.env_file is not None:
        if not chosen.env_file.is_file():
            raise SettingsError(f"--env-file: cannot read {chosen.env_file}")
        from dotenv import load_dotenv  # noqa: PLC0415 - only where a file is named

        load_dotenv(chosen.env_file, override=False)
    overrides = {
        key: value for key in ("host", "port", "log_level") if (value := getattr(chosen, key, None)) is not None
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


def _serve_settings(settings: Settings, transport: str) -> int:
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    from manydb.connections import Connections  # noqa: PLC0415
    from manydb.server import build_server  # noqa: PLC0415 - FastMCP takes a second to import: not before settings are right
    from manydb.transports import serve_http, serve_stdio  # noqa: PLC0415

    Connections.of(settings)  # a contradiction ends the start here, before anything is opened
    server = build_server(settings)
    asyncio.run(serve_http(server, settings) if transport == "http" else serve_stdio(server))
    return 0


def _query(chosen: argparse.Namespace) -> int:
    from manydb import shell  # noqa: PLC0415

    params = _pairs("--param", "NAME=VALUE", chosen.param)
    return asyncio.run(
        shell.query(
            _settings(chosen), chosen.name, chosen.sql, params or None, row_cap=chosen.rows, format_name=chosen.format
        )
    )


def _check(chosen: argparse.Namespace) -> int:
    from manydb import shell  # noqa: PLC0415

    return asyncio.run(shell.check(_settings(chosen)))


def _demo(chosen: argparse.Namespace) -> int:
    from manydb import demo  # noqa: PLC0415

    url = chosen.url or os.environ.get("MANYDB_DEMO_URL")
    if not chosen.serve:
        return asyncio.run(demo.tour(url, chosen.scale))
    with demo.shop_url(url) as shop:
        asyncio.run(demo.build(shop, chosen.scale))
        settings = demo.settings(shop, {key: getattr(chosen, key) for key in ("host", "port", "log_level")})
        return _serve_settings(settings, chosen.transport)
