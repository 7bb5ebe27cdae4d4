"""When two spellings may mean one thing: generous, for a name that is taken for a restricted one is only refused."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

_KEPT_BYTES = 63
"""PostgreSQL cuts names to this length, so that a longer one may mean a restricted one."""
_WORD = re.compile(r"\w+")


def fold(name: str) -> str:
    """*name* without what some database ignores in names: case, accents, and what lies beyond 63 bytes."""
    if name.isascii():
        return name.lower()[:_KEPT_BYTES]
    return _plain(name).encode("utf-8", "ignore")[:_KEPT_BYTES].decode("utf-8", "ignore")


def mentioned(text: str, names: Iterable[str]) -> Iterator[str]:
    """Those of the folded *names* that occur in *text*, wherever: in quotes, strings and comments too."""
    words = {fold(word) for word in _WORD.findall(text)}
    whole = ""
    for name in names:
        if _WORD.fullmatch(name):
            found = name in words
        else:
            whole = whole or _plain(text.replace("``", "`").replace('""', '"'))
            found = name in whole
        if found:
            yield name


def _plain(text: str) -> str:
    bare = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    # The dotless i is the one letter that folds to ASCII in MySQL's collations and not in Python.
    return bare.casefold().replace("\u0131", "i")


RESERVED = frozenset({
    "SELECT", "FROM", "WHERE", "ORDER", "GROUP", "HAVING", "LIMIT", "UNION", "TABLE", "ON", "IN", "AS", "AND", "OR",
    "NOT", "NULL", "CASE", "WHEN", "THEN", "ELSE", "DISTINCT", "USING",
})  # fmt: skip
"""Words that are no name in any of the databases unless they are quoted or stand behind a dot."""
