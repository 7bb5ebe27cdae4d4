"""Rows of one table, page by page; what leads from one page to the next."""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from manydb import reads, writes
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.criteria import Subject
from manydb.errors import (
    BadParameter,
    Expired,
)
from manydb.gateway import Gateway
from manydb.query import Page
from manydb.rows.plans import Plan, Selection
from manydb.rows.subjects import compiled, subject_of

_LONGEST_KEY = 1_000
"""Bytes of a cursor's value: some databases sort by no more than the first 1,024 of a text."""
_MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A page of rows; *cursor* leads to the next, and *reason* says why there is none where rows are left."""

    page: Page
    cursor: str | None = None
    reason: str = ""


class Rows:
    """Reads rows, page by page. A cursor is good for its caller, while the server runs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._secret = gateway.settings.key("cursors")

    async def select(
        self,
        caller: Caller,
        connection: str | None,
        wanted: Selection,
        *,
        cursor: str | None = None,
        row_cap: int | None = None,
        transaction_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Found:
        """The rows that *wanted* describes, from *cursor* on. Raises ManydbError."""
        gateway = self._gateway
        async with gateway.on(caller, connection, transaction_id) as place:
            registration = place.registration
            cap = reads.cap(gateway.settings, registration, row_cap)
            plan = Plan.of(await subject_of(gateway, place, wanted.table), wanted, registration.dialect.quote)
            identity = _identity(registration, plan.subject, wanted)
            after = self._opened(caller, cursor, identity, plan) if cursor else None
            sql, params = compiled(registration, plan.statement(after).limit(cap + 1))
            with gateway.recorded(caller, registration, sql) as record:
                seconds = gateway.seconds(registration, timeout)
                result = await reads.query(gateway, place, sql, params, limit=cap + 1, timeout=seconds)
                record.rows = min(len(result.rows), cap)
        more = result.more or len(result.rows) > cap
        shown = plan.shown(replace(result, rows=result.rows[:cap], more=more))
        page = reads.cut(gateway.settings, shown, row_cap=cap, byte_budget=registration.limits.byte_budget)
        if page.truncated is None or not page.rows:
            return Found(page)
        last = plan.keys_of(result.rows[len(page.rows) - 1])
        if reason := plan.unpaged or _too_long(last):
            return Found(page, reason=reason)
        return Found(page, self._sealed(caller, identity, last))

    # -- cursors -----------------------------------------------------------------------------------------------------

    def _sealed(self, caller: Caller, identity: str, last: Sequence[Any]) -> str:
        body = orjson.dumps([identity, last])
        return base64.urlsafe_b64encode(self._mac(caller, body) + body).decode().rstrip("=")

    def _opened(self, caller: Caller, cursor: str, identity: str, plan: Plan) -> Sequence[Any]:
        """The values of the last row before. Raises BadParameter for a cursor of another call, else Expired."""
        if plan.unpaged:
            raise BadParameter(f"there is no cursor here: {plan.unpaged}")
        try:
            sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise BadParameter("cursor is what the reply before gave, unchanged") from None
        mac, body = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(caller, body)):
            raise Expired("the cursor is not known here (any more); ask for the first page again, without a cursor")
        made_for, last = orjson.loads(body)
        if made_for != identity:
            raise BadParameter(
                "the cursor is of another call: connection, table, filter, order, group_by and aggregates "
                "must be those that it came from"
            )
        found: list[Any] = last
        return found

    def _mac(self, caller: Caller, body: bytes) -> bytes:
        owner = f"{caller.kind}\x00{caller.key}\x00".encode()
        return hmac.digest(self._secret, owner + body, "sha256")[:_MAC_BYTES]


def _identity(registration: Registration, subject: Subject, wanted: Selection) -> str:
    told = (wanted.filter, list(wanted.order), list(wanted.group_by), list(wanted.aggregates))
    return writes.digest(registration.name, registration.location, subject.table.address, *told)[:32]


def _too_long(last: Sequence[Any]) -> str:
    if any(len(orjson.dumps(value)) > _LONGEST_KEY for value in last):
        return "the last row's values are too long to order by; order by shorter columns"
    return ""
