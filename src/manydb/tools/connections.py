"""The databases there are, and the ones that callers bring."""

import hashlib
from typing import Annotated, Any

from fastmcp import Context
from fastmcp.tools import ToolResult
from mcp_types import InputRequiredResult
from pydantic import Field

from manydb.connections import Registration
from manydb.errors import AuthFailed, BadParameter
from manydb.registrations import Given, Trial, said
from manydb.settings import Access
from manydb.standings import Standing
from manydb.tools import passwords
from manydb.tools.asking import Reply, can_ask
from manydb.tools.parameters import Connection, Nothing, answer, caller, gateway, registrations

Url = Annotated[
    str | Nothing,
    Field(description="postgresql://user:password@host:5432/database, mysql://…, sqlite:////file.db; or the fields"),
]
Driver = Annotated[str | Nothing, Field(description="postgresql, mysql or sqlite")]
Port = Annotated[int, Field(ge=1, le=65535)] | Nothing
Database = Annotated[str | Nothing, Field(description="Its name; of SQLite the path")]
Password = Annotated[str | Nothing, Field(description="May stand beside url too")]


async def list_connections(ctx: Context) -> ToolResult:
    """List the databases you can use: name, backend, access, login's rights, description, whether each answers."""
    found, owner = gateway(ctx), caller(ctx)
    left = {name: round(seconds) for name, _, seconds in found.connections.of(owner)}
    standings = await found.standings.of(found.connections.visible(owner))
    lines = [_line(*each) for each in standings]
    for line, (registration, _) in zip(lines, standings, strict=True):
        if registration.owner is not None:
            line["expires_in_seconds"] = left.get(registration.name, 0)
    return answer(found, {"connections": lines})


def _line(registration: Registration, standing: Standing) -> dict[str, Any]:
    health, powers = standing.health, standing.powers
    status = "unknown" if health is None else "unreachable" if health.error else "ok"
    line = {
        "name": registration.name,
        "backend": standing.version or registration.dialect.title,
        "driver": registration.target.url.get_driver_name(),
        "access": registration.access,
        "login": powers and said(powers),
        "description": registration.description,
        "status": status,
        "reason": health.error.message if health and health.error else None,
    }
    return {key: value for key, value in line.items() if value}


async def register_connection(
    ctx: Context,
    name: Annotated[str, Field(description="What to call it from now on")],
    url: Url = None,
    driver: Driver = None,
    host: str | Nothing = None,
    port: Port = None,
    user: str | Nothing = None,
    password: Password = None,
    database: Database = None,
    access: Access = "read_only",
    description: str = "",
    ask_password: Annotated[bool, Field(description="Let the user type the password into a form")] = False,  # noqa: FBT002
) -> Reply:
    """Add a database of your own, by url or by fields; use the name of the reply as connection everywhere.

    It is tried first and kept only if it works; otherwise the error names the step that failed. Nobody else sees it. It
    goes after an hour or so without use, and when your session ends.
    """
    found, owner = registrations(ctx), caller(ctx)
    given = Given(url, driver, host, port, user, password, database)
    admission = found.admit(given)
    has_password = admission.url.password is not None
    question = f"Password of {admission.url.username} at {admission.dialect.location(admission.url)}?"
    remember = hashlib.sha256(f"{name}\0{question}".encode()).hexdigest()

    def prepared(password: str | None) -> Registration:
        if password == "":
            raise BadParameter("the user gave no password; nothing was registered")
        chosen = admission if password is None else admission.with_password(password)
        return found.prepare(owner, name, chosen, access, description)

    typed = passwords.answered(ctx, remember)
    registration = prepared(typed)  # before the user is asked for anything
    if ask_password and typed is None and not has_password:
        if admission.file is not None or not can_ask(ctx):
            raise BadParameter("no password can be asked for here; leave ask_password out, or give password")
        asked = await passwords.ask(ctx, question, remember)
        if isinstance(asked, InputRequiredResult):
            return asked
        typed, registration = asked, prepared(asked)
    try:
        trial = await found.register(owner, registration)
    except AuthFailed:
        if has_password or typed is not None or not can_ask(ctx):
            raise
        asked = await passwords.ask(ctx, question, remember)
        if isinstance(asked, InputRequiredResult):
            return asked
        registration = prepared(asked)
        trial = await found.register(owner, registration)
    return answer(gateway(ctx), _registered(registration, trial, gateway(ctx).settings.registration_ttl))


def _registered(registration: Registration, trial: Trial, ttl: float) -> dict[str, Any]:
    is_listed = registration.owner is not None and registration.owner.is_known
    reply = {
        "name": registration.name,
        "backend": trial.version,
        "access": registration.access,
        "login": trial.powers and said(trial.powers),
        "expires_in_seconds": round(ttl),
        "hint": "" if is_listed else "keep this name: it is listed nowhere, and leads here from anywhere",
    }
    return {key: value for key, value in reply.items() if value}


async def test_connection(
    ctx: Context,
    connection: Connection = None,
    url: Url = None,
    driver: Driver = None,
    host: str | Nothing = None,
    port: Port = None,
    user: str | Nothing = None,
    password: Password = None,
    database: Database = None,
) -> ToolResult:
    """Try a connection, or a url or fields that are not registered, and keep nothing: dns, tcp, tls, auth and so on.

    Replies ok and the steps with their milliseconds, up to the first that failed: that is an answer, not an error.
    """
    found = registrations(ctx)
    given = Given(url, driver, host, port, user, password, database)
    if given == Given():
        registration = gateway(ctx).connections.get(caller(ctx), connection)
        return answer(gateway(ctx), _told(await found.test(registration), registration.name))
    if connection is not None:
        raise BadParameter("give connection, or url or fields, not both")
    return answer(gateway(ctx), _told(await found.test_unregistered(caller(ctx), found.admit(given)), None))


def _told(trial: Trial, name: str | None) -> dict[str, Any]:
    error = trial.error
    reply = {
        "connection": name,
        "ok": error is None,
        "backend": trial.version,
        "steps": [step.as_dict() for step in trial.steps],
        "code": error and error.code,
        "retry": error and error.retry,
    }
    return {key: value for key, value in reply.items() if value is not None and value != ""}


async def remove_connection(
    ctx: Context, connection: Annotated[str, Field(description="The name that register_connection replied")]
) -> ToolResult:
    """Forget a connection that you registered; open transactions on it are rolled back."""
    removed = await registrations(ctx).remove(caller(ctx), connection)
    return answer(gateway(ctx), {"removed": removed.name})
