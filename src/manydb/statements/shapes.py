"""Texts that differ only in the constants that they compare with: clients ask for one row after the other.

Such texts are made of the same tokens, so what is true of one is true of all. Only texts that no database could split
otherwise are looked at here: words, blanks and a few signs, and constants that stand behind a comparison. Every quote
is one of such a constant, or of an empty string: so it opens where a token begins, and nothing in it can close it.
"""

import re

_COMPARED = re.compile(
    # Not `=>`, which hands over an argument: what an argument may be is judged by its value.
    r"(?<![=<>])(<=|>=|<>|=|<|>)(?![=<>])(\s*)(?:(\d+(?:\.\d+)?)(?![\w.])|'[\w .:@+-]*'(?!['\w]))",
    re.ASCII,
)
_PLAIN = re.compile(r"(?:[\w\s.,()*=<>]++|'')++", re.ASCII)


def shape(sql: str) -> str | None:
    """*sql* with other constants in the place of those that it compares with; None where it is not that plain."""
    found = _COMPARED.sub(_constant, sql)
    return found if found != sql and _PLAIN.fullmatch(found) else None


def _constant(match: re.Match[str]) -> str:
    return match[1] + match[2] + ("0" if match[3] else "''")
