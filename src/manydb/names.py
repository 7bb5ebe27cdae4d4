"""Names of tables and columns: as callers write them, as the database stores them, as SQL needs them.

`customers`, `sales."Order"`: prefixed where they are not on the search path, quoted where the database asks for it.
*quote* is the dialect's own rule for that, one name in, one name out.
"""

import difflib
import re
from collections.abc import Callable, Iterable

from manydb import errors
from manydb.dialects.schema import Overview, Relation, TableName

Quote = Callable[[str], str]


def spelled(overview: Overview, address: TableName, quote: Quote) -> str:
    """*address* as SQL on this connection needs it."""
    relation = overview.by_address.get(address)
    if (relation.visible if relation else address.schema == overview.default_schema) or not address.schema:
        return quote(address.name)
    return f"{quote(address.schema)}.{quote(address.name)}"


_NAME_PART = re.compile(r"""\s*(?:"((?:[^"]|"")*)"|`((?:[^`]|``)*)`|\[([^\]]*)\]|([^."`\[\]]+?))\s*(?:\.|$)""")


def _parts(text: str) -> list[str] | None:
    """The names in a dotted path without their quotes; None where *text* is no such path."""
    parts, position = [], 0
    while match := _NAME_PART.match(text, position):
        double, back, square, plain = match.groups()
        parts.append(next(part for part in (_once(double, '"'), _once(back, "`"), square, plain) if part is not None))
        position = match.end()
        if position == len(text):
            return parts if not text.endswith(".") else None
    return None


def _once(quoted: str | None, mark: str) -> str | None:
    return None if quoted is None else quoted.replace(mark * 2, mark)


def resolve(overview: Overview, text: str, quote: Quote) -> TableName:
    """The relation that a caller means by `table`, `schema.table` or `"Quoted"."Name"`.

    The exact spelling wins; otherwise upper and lower case are the same where that leaves one relation.
    Raises UnknownTable with the nearest names, or with all of them where several schemas have one.
    """
    parts = _parts(text.strip()) or [text.strip()]
    schema, name = (parts[-2] if len(parts) > 1 else None), parts[-1]
    found = _matching(overview, schema, name) or _matching(overview, None, text.strip())
    if len(found) == 1:
        return found[0].address
    if found:
        names = [spelled(overview, relation.address, quote) for relation in found]
        raise errors.UnknownTable(f"{text!r} may be any of {', '.join(names)}", suggestions=names)
    nearest = suggest(overview, name, quote, schema=schema)
    meant = f"; nearest: {', '.join(nearest)}" if nearest else ""
    raise errors.UnknownTable(f"no table or view {text!r}{meant}", suggestions=nearest)


def _matching(overview: Overview, schema: str | None, name: str) -> list[Relation]:
    """The best candidates: exact before folded, and on the search path before elsewhere."""
    folded = [
        relation
        for relation in overview.by_folded_name.get(name.casefold(), ())
        if schema is None or relation.schema.casefold() == schema.casefold()
    ]
    exact = [relation for relation in folded if relation.name == name and schema in {None, relation.schema}]
    for candidates in (exact, folded):
        visible = [relation for relation in candidates if relation.visible]
        if schema is None and visible:
            return visible
        if candidates:
            return candidates
    return []


def suggest(overview: Overview, name: str, quote: Quote, schema: str | None = None, most: int = 3) -> list[str]:
    """Up to *most* names like *name*, spelled as SQL needs them; those in *schema* first among equals."""
    by_name = overview.by_folded_name
    wanted = name.casefold()
    near = [wanted] if wanted in by_name else []
    near += difflib.get_close_matches(wanted, by_name, n=most, cutoff=0.6)
    near += [known for known in by_name if wanted in known or (len(known) > 3 and known in wanted)][:most]
    relations = [relation for known in dict.fromkeys(near) for relation in by_name[known]]
    # Stable, so that among those of one place the nearest name comes first.
    relations.sort(key=lambda relation: (relation.schema != schema, not relation.visible))
    same = [relation for relation in relations if relation.name.casefold() == wanted]
    # The same name in another case or place is likeliest, but one such place is enough: other databases have many.
    first = [relation for relation in same if relation.visible or relation.schema == schema] or same[:1]
    nearest = dict.fromkeys([*first, *relations])
    return [spelled(overview, relation.address, quote) for relation in list(nearest)[:most]]


def suggest_columns(columns: Iterable[str], name: str, most: int = 3) -> list[str]:
    """Up to *most* of *columns* that look like *name*, as the database stores them."""
    by_folded = {column.casefold(): column for column in columns}
    wanted = name.casefold()
    near = difflib.get_close_matches(wanted, by_folded, n=most, cutoff=0.6)
    near += [known for known in by_folded if wanted in known or known in wanted]
    return [by_folded[known] for known in dict.fromkeys(near)][:most]
