"""What the command line shows of a gateway: a query's rows, the state of every connection."""

import asyncio
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manydb import formats, reads
from manydb.callers import PROCESS
from manydb.connections import Registration
from manydb.dialects.powers import Powers
from manydb.errors import ManydbError, SettingsError
from manydb.gateway import Gateway
from manydb.query import Page
from manydb.settings import Settings

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


async def query(
    settings: Settings,
    name: str,
    sql: str,
    params: dict[str, str] | None,
    *,
    row_cap: int | None,
    format_name: str | None,
) -> int:
    """Print the rows of *sql*: as a table in a terminal, else as *format_name* or the settings' format."""
    async with Gateway.open(settings) as gateway:
        page = await reads.execute(gateway, PROCESS, name, sql, params, row_cap=row_cap)
    if format_name is None and sys.stdout.isatty():
        _print_table(page)
    else:
        sys.stdout.write(formats.text(format_name or settings.format, page).rstrip("\n") + "\n")
    return 0


def _print_table(page: Page) -> None:
    console = Console()
    console.print(rows_table(page.result.columns, [list(row) for row in page.rows]))
    count = f"{len(page.rows)} row{'' if len(page.rows) == 1 else 's'}, {page.result.elapsed_ms} ms"
    console.print(f"{count}; there are more: raise --rows" if page.truncated else count, style="dim")


def rows_table(columns: list[str], rows: list[list[Any]]) -> Table:
    """Rows as a person reads them: numbers to the right, NULL told apart from nothing."""
    table = Table(header_style="bold")
    for index, column in enumerate(columns):
        is_number = any(row[index] is not None for row in rows) and all(
            isinstance(row[index], int | float) or row[index] is None for row in rows
        )
        table.add_column(_text(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("[dim]NULL[/]" if cell is None else _text(cell) for cell in row))
    return table


def _text(cell: Any) -> str:
    """*cell* for a terminal: what would steer it, or rich's markup, is shown instead of obeyed."""
    return escape(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(cell)))


async def check(settings: Settings) -> int:
    """Print whether each connection answers and what its login could do; 1 where one does not answer."""
    async with Gateway.open(settings) as gateway:
        registrations = list(gateway.connections)
        if not registrations:
            raise SettingsError("no connections: give --connection name=url, a manydb.toml or DATABASE_URL")
        checked = await asyncio.gather(*(_checked(gateway, registration) for registration in registrations))
    table = Table(header_style="bold")
    for column in ("connection", "backend", "access", "answers", "login"):
        table.add_column(column, overflow="fold")
    for each in checked:
        table.add_row(*each.cells)
    console = Console()
    console.print(table)
    for each in checked:
        if each.powers and each.powers.can_write and each.registration.access == "read_only":
            console.print(
                f"\n{each.registration.name}: a login that can only read, made by an administrator:", style="bold"
            )
            console.print(each.powers.remedy, markup=False, highlight=False, soft_wrap=True)
    return 0 if all(each.answers for each in checked) else 1


@dataclass(frozen=True, slots=True)
class _Checked:
    registration: Registration
    backend: str
    answer: str
    answers: bool
    powers: Powers | None = None

    @property
    def cells(self) -> list[str]:
        reasons = ", ".join(self.powers.reasons) if self.powers else ""
        login = "" if self.powers is None else reasons or "reads only"
        texts = [self.registration.name, self.backend, self.registration.access, self.answer, login]
        return [escape(text) for text in texts]


async def _checked(gateway: Gateway, registration: Registration) -> _Checked:
    started = time.perf_counter()
    try:
        standing = await gateway.standings.check(registration)
    except ManydbError as exc:
        return _Checked(registration, registration.dialect.title, f"{exc.code}: {exc.message}", answers=False)
    milliseconds = round((time.perf_counter() - started) * 1000)
    backend = standing.version or registration.dialect.title
    return _Checked(registration, backend, f"yes, in {milliseconds} ms", answers=True, powers=standing.powers)
