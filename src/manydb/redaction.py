"""Keeping bound values out of what the database says about them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_HIDDEN = "<value>"
_TELLING = 12


def without_values(message: str, params: Any) -> str:
    """*message* with every bound value of *params* replaced, however the driver may have written it."""
    for text in sorted(_spellings(params), key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", _HIDDEN, message)
        # Databases quote the text near a mistake and cut it somewhere: the beginning of a long value is enough.
        if (at := message.find(text[:_TELLING])) >= 0 and len(text) > _TELLING:
            message = message[:at] + _HIDDEN
    return message


def _spellings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _spellings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _spellings(item)
    elif value is not None and not isinstance(value, bool) and (text := str(value)):
        # As it is, as SQL text with quotes or backslashes doubled, and as Python would show it.
        yield from {text, text.replace("'", "''"), text.replace("\\", "\\\\").replace("'", "\\'"), repr(text)[1:-1]}
