"""SQL text → a syntax tree that two lexers agree on, or a refusal.

No general parser reads every text as the databases do. So its tokens are laid over those of the exact lexer, and every
occurrence of a restricted name has to be found in its tree. What it cannot parse is not proved to be harmless.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from manydb.dialects.grammar import Grammar, unquote
from manydb.errors import Forbidden, ManydbError
from manydb.lexer import Token, tokenize
from manydb.lineage.names import RESERVED, fold

if TYPE_CHECKING:
    from sqlglot import exp

MAX_CHARACTERS = 20_000
"""The time to parse grows with the text, on the event loop: about 10 ms for this much."""
_MOST_SUBSCRIPTS = 50
"""The time to parse grows with the square of their number."""
_SPARE_NODES = 500
"""Over one for every two characters; honest statements need one for every five."""
_KINDS = frozenset({"word", "name", "string"})
_ALLOWED_ROOTS = ("Select", "SetOperation", "Subquery", "Values")


def unproved(why: str, *suggestions: str) -> Forbidden:
    """The refusal of what cannot be shown to keep to the policy."""
    return Forbidden(f"this connection hides some data, and {why}", suggestions=suggestions)


@lru_cache(maxsize=256)
def parse(sql: str, grammar: Grammar, restricted: frozenset[str]) -> "exp.Expr":
    """The tree of one query; shared, so never to be changed. *restricted* are folded names. Raises Forbidden."""
    if grammar.parser is None:
        raise unproved("nothing can be proved about statements of this database")
    if len(sql) > MAX_CHARACTERS:
        raise unproved(f"a statement of more than {MAX_CHARACTERS:,} characters is not analysed", "send a shorter one")
    if sql.count("[") > _MOST_SUBSCRIPTS:
        raise unproved(f"a statement with more than {_MOST_SUBSCRIPTS} '[' is not analysed", "write it more plainly")
    tokens = [token for token in tokenize(sql, grammar.lexicon) if token.kind != "comment"]
    tree = _tree(sql, grammar.parser, tokens)
    _require_accounted(tokens, tree, restricted)
    return tree


def _tree(sql: str, parser: str, tokens: Sequence[Token]) -> "exp.Expr":
    from sqlglot import errors, exp, parse  # noqa: PLC0415 - 150 ms, only where it is asked for
    from sqlglot.dialects.dialect import Dialect  # noqa: PLC0415

    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)  # its warnings quote the statement
    try:
        _require_agreement(tokens, Dialect.get_or_raise(parser).tokenize(sql))
        # Without a bound it takes twice the time for each further JOIN that has no condition.
        most = len(sql) // 2 + _SPARE_NODES
        parsed = parse(sql, dialect=parser, error_level=errors.ErrorLevel.RAISE, max_nodes=most)
        trees = [tree for tree in parsed if tree is not None]
    except ManydbError:
        raise
    except Exception as exc:  # it raises many things, RecursionError too
        raise unproved("this statement cannot be analysed", "write it more plainly") from exc
    allowed = tuple(getattr(exp, name) for name in _ALLOWED_ROOTS)
    if (
        len(trees) != 1
        or not isinstance(trees[0], allowed)
        or trees[0].find(exp.Command, exp.DML, exp.DDL) not in (None, trees[0])
    ):
        raise unproved("this statement is not a plain query", "write it as a SELECT")
    root: exp.Expr = trees[0]
    return root


def _require_agreement(ours: Sequence[Token], theirs: Sequence[Any]) -> None:
    """Raise Forbidden unless every word, name and string of ours is one of theirs, and they have no others."""
    spans = {token.start: token for token in theirs}
    starts = {token.start for token in ours}
    current: Any = None  # their token that the last of ours began
    for token in ours:
        if token.kind not in _KINDS:
            continue
        continues = current is not None and token.end <= current.end + 1
        other = current if continues else spans.get(token.start)
        if other is None or not _agree(token, other, continues=continues):
            raise unproved(f"{token.text[:40]!r} may be read in more than one way", "write it more plainly")
        current = other
    if any(_begins_word(other) and other.start not in starts for other in theirs):
        raise unproved("its comments and quotes may be read in more than one way", "leave comments out")


def _agree(token: Token, other: Any, *, continues: bool) -> bool:
    """Is *token* their token *other*, or a part that it may have: a word of GROUP BY, the string of N'…'?"""
    if token.kind != "word":
        return bool(token.end == other.end + 1)
    return not continues or (token.text.isalpha() and other.text.replace(" ", "").isalpha())


def _begins_word(token: Any) -> bool:
    return bool(token.text[:1].isalpha() or token.text[:1] == "_")


def _require_accounted(tokens: Sequence[Token], tree: "exp.Expr", restricted: Iterable[str]) -> None:
    """Raise Forbidden if the text names something restricted more often than its tree does."""
    from sqlglot import exp  # noqa: PLC0415

    said = Counter(fold(unquote(token.text)) for token in tokens if token.kind in ("word", "name"))
    names = {name for name in restricted if said[name] and name.upper() not in RESERVED}
    if not names:
        return
    found = Counter(
        fold(str(node.name)) for node in tree.walk() if isinstance(node, exp.Identifier | exp.Anonymous | exp.Var)
    )
    for name in names:
        if found[name] < said[name]:
            raise unproved(
                f"one of the places where {name} stands is not understood", f"leave {name} out of the statement"
            )
