"""SQL text → Statement: what it is, what it touches, and whether it may run as a read.

reading.py       parse, require_read, check_functions
placeholders.py  bind: params into the text's placeholders, for each driver's style
opinion.py       second_opinion: a parser library may refuse, never allow
"""

from manydb.statements.opinion import second_opinion
from manydb.statements.placeholders import Placeholder, bind
from manydb.statements.reading import Statement, check_functions, parse, require_read

__all__ = [
    "Placeholder",
    "Statement",
    "bind",
    "check_functions",
    "parse",
    "require_read",
    "second_opinion",
]
