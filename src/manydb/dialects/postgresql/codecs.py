"""How asyncpg reads and writes values on our connections: mostly as the server's own text.

The server's text is the canonical form of most types (docs/values.md), it exists for every type there is or will be,
and nothing is lost on the way to it, whereas Python's own date and time types have no infinity, no year before 1 and
no 24:00. Booleans, integers, floats and strings keep the driver's binary form: it is as exact, and faster.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from manydb import values
from manydb.dialects.postgresql import records, texts, types

# What the text forms below depend on; every one is reported by the server when it changes, so looking costs nothing.
_SESSION = {"client_encoding": "UTF8", "TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "iso_8601"}

# Read and written as the server's text. Without an entry, asyncpg would make Python objects of these that lose
# something, or that JSON has no form for. The driver's own choice is text for all that is not in this file.
_TEXT = {
    18: '"char"', 27: "tid", 600: "point", 601: "lseg", 602: "path", 603: "box", 604: "polygon", 628: "line",
    650: "cidr", 718: "circle", 869: "inet", 1082: "date", 1083: "time", 1186: "interval", 1560: "bit", 1562: "varbit",
    1700: "numeric", 2950: "uuid", 2970: "txid_snapshot", 3220: "pg_lsn", 4072: "jsonpath", 5038: "pg_snapshot",
    3904: "int4range", 3906: "numrange", 3908: "tsrange", 3910: "tstzrange", 3912: "daterange", 3926: "int8range",
    4451: "int4multirange", 4532: "nummultirange", 4533: "tsmultirange", 4534: "tstzmultirange", 4535: "datemultirange",
    4536: "int8multirange", 4600: "pg_brin_bloom_summary", 4601: "pg_brin_minmax_multi_summary", 5017: "pg_mcv_list",
}  # fmt: skip
BYTEA, RECORD = 17, 2249


# Text that becomes something else at the top of a row, too; other types with a decoder do so inside composites only,
# which arrive as text from end to end.
_DECODED = {114: "json", 700: "real", 1114: "timestamp", 1184: "timestamptz", 1266: "timetz", 3802: "jsonb"}


class Settings(Protocol):
    """asyncpg's ConnectionSettings: its codecs by oid. The public methods look types up by name, one query each."""

    def get_data_codec(self, oid: int) -> Any: ...
    def set_builtin_type_codec(
        self, oid: int, name: str, schema: str, kind: str, alias: str, text_or_binary: str
    ) -> None: ...
    def add_python_codec(
        self,
        oid: int,
        name: str,
        schema: str,
        parts: Sequence[Any],
        kind: str,
        encoder: Callable[[Any], Any],
        decoder: Callable[[Any], Any],
        form: str,
    ) -> None: ...
    def remove_python_codec(self, oid: int, name: str, schema: str) -> None: ...
    def register_data_types(self, types: Iterable[Mapping[str, Any]]) -> None: ...


class Codecs:
    """The codecs of one asyncpg connection, and what it has learnt about types that are not built in."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._settings: Settings = raw._protocol.get_settings()  # noqa: SLF001 - see Settings
        self.known = dict(types.WELL_KNOWN)
        for oid, name in _TEXT.items():
            self._as_text(oid, name)
        for oid, name in _DECODED.items():
            self._as_decoded_text(oid, name, texts.DECODERS[oid])
        self._settings.add_python_codec(BYTEA, "bytea", "pg_catalog", (), "scalar", bytes, values.data, "binary")
        self._settings.add_python_codec(
            RECORD, "record", "pg_catalog", (), "scalar", bytes, partial(records.decode, known=self.known), "binary"
        )

    def _as_text(self, oid: int, title: str) -> None:
        self._settings.set_builtin_type_codec(oid, title, "", "scalar", "text", "text")

    def _as_decoded_text(self, oid: int, title: str, decoder: Callable[[str], Any]) -> None:
        self._settings.add_python_codec(oid, title, "", (), "scalar", str, decoder, "text")

    async def learn(self, missing: set[int]) -> None:
        """Give each of the *missing* types a codec, and all that they are made of. At most one query."""
        found = await types.read(self._raw, missing - self.known.keys()) if missing - self.known.keys() else {}
        self.known.update(found)
        for described in found.values():
            if described.kind == "composite":
                self._as_decoded_text(described.oid, described.title, texts.decoder(described.oid, self.known))
            elif described.name == "hstore" and described.kind == "scalar":
                self._as_decoded_text(described.oid, described.title, texts.hstore)
            elif described.kind not in {"array", "domain"} and (
                described.oid in missing or self._settings.get_data_codec(described.oid) is None
            ):
                self._as_text(described.oid, described.title)  # anyarray has a codec, but one that cannot read
        # Last, and all of them: each call above makes asyncpg forget its arrays and domains.
        for oid in self.known:
            self._derive(oid)

    def _derive(self, oid: int) -> None:
        """Let asyncpg make the codec of an array or a domain from that of its element or base type."""
        described = self.known.get(oid)
        if described is None or not (described.element or described.base):
            return
        self._derive(described.element or described.base)
        element = self.known.get(described.element)
        self._settings.register_data_types(
            [
                {
                    "oid": oid,
                    "ns": "",
                    "name": element.title if element else described.title,
                    "kind": b"d" if described.base else b"b",
                    "basetype": described.base or None,
                    "basetype_name": "",
                    "elemtype": described.element or None,
                    "elemtype_name": "",
                    "elemdelim": described.delimiter,
                    "range_subtype": None,
                    "attrtypoids": None,
                }
            ]
        )

    def forget_composites(self) -> None:
        """Composites are tables, too: their columns come and go, so they are read anew for each statement."""
        composites = [described for described in self.known.values() if described.kind == "composite"]
        for described in composites:
            self._settings.remove_python_codec(described.oid, described.title, "")
        if composites:
            # With each removal asyncpg forgets its arrays and domains, which may be made of composites.
            for described in [*self.known.values()]:
                if described.kind in {"composite", "array", "domain"} and described.oid not in types.WELL_KNOWN:
                    del self.known[described.oid]


async def pin_session(raw: Any) -> None:
    """Make the session write dates, times and intervals as ISO 8601; no round trip where it does so already."""
    current = raw.get_settings()
    wrong = {name: value for name, value in _SESSION.items() if not getattr(current, name, "").startswith(value)}
    if wrong:
        await raw.execute("; ".join(f"SET {name} TO '{value}'" for name, value in wrong.items()))


async def install_codecs(raw: Any) -> Codecs:
    """Set up a new asyncpg connection."""
    await pin_session(raw)
    return Codecs(raw)
