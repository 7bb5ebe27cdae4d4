"""JSON values → the texts that libpq sends for the types that a statement expects, and whose fault it is."""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from manydb.dialects.postgresql import literals, parameters
from manydb.dialects.postgresql.libpq.pipeline import ServerError
from manydb.dialects.postgresql.types import Type
from manydb.errors import BadParameter

_PARAMETER = re.compile(r"(?:parameter|argument) \$(\d+)")


def written(args: Sequence[Any], oids: Sequence[int], known: Mapping[int, Type]) -> list[bytes | None]:
    """Raises BadParameter for a value that does not fit, and for a wrong number of them."""
    if len(args) != len(oids):
        raise BadParameter(f"the statement has {len(oids)} placeholders, and {len(args)} values were given")
    texts: list[bytes | None] = []
    for position, (value, oid) in enumerate(zip(args, oids, strict=True), 1):
        try:
            texts.append(_text(value, oid, known))
        except (TypeError, ValueError):
            raise _misfit(position, oids, known) from None
    return texts


@contextmanager
def blamed(oids: Sequence[int], known: Mapping[int, Type]) -> Generator[None]:
    """Make a BadParameter of what the server says of a value that it cannot read, and which it quotes."""
    try:
        yield
    except ServerError as error:
        found = _PARAMETER.search(error.context) if error.sqlstate.startswith("22") else None
        if found is None or not 1 <= int(found[1]) <= len(oids):
            raise
        raise _misfit(int(found[1]), oids, known) from None


def _text(value: Any, oid: int, known: Mapping[int, Type]) -> bytes | None:
    bound = parameters.bind(value, oid, known)
    described = known.get(oid)
    if isinstance(bound, list) and described is not None and described.delimiter != ",":
        text: str | None = literals.to_array(bound, described.delimiter)
    else:
        text = parameters.written(bound)
    if text is None:
        return None
    if "\0" in text:
        raise ValueError("libpq would send what stands before it")
    return text.encode()


def _misfit(position: int, oids: Sequence[int], known: Mapping[int, Type]) -> BadParameter:
    described = known.get(oids[position - 1])
    return BadParameter(f"placeholder ${position} takes a value of type {described.title if described else 'its own'}")
