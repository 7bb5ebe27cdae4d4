"""SQL text → Statement: what it is, what it touches, and whether it may run as a read.

reading.py       parse, require_read, require_safe, check_functions
shapes.py        shape: what texts have in common that differ in the constants they compare with
condition.py     condition: the rows that an UPDATE or DELETE is about, as a query
placeholders.py  bind: params into the text's placeholders, for each driver's style
opinion.py       require_consent, second_opinion: a parser library may refuse, never allow
"""

from manydb.statements.condition import Condition, condition, names
from manydb.statements.opinion import require_consent, second_opinion
from manydb.statements.placeholders import Placeholder, bind
from manydb.statements.reading import Statement, check_functions, parse, require_read, require_safe

__all__ = [
    "Condition",
    "Placeholder",
    "Statement",
    "bind",
    "check_functions",
    "condition",
    "names",
    "parse",
    "require_consent",
    "require_read",
    "require_safe",
    "second_opinion",
]
