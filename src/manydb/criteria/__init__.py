"""Conditions and sort keys of rows, as SQLAlchemy Core expressions that mean the same on every database.

Texts are compared by code point, whatever collation a column has; times by the moment that they mean, however a
database without a type for them spells it. A comparison with NULL is neither true nor false, and neither is its
opposite: only `is_null` finds rows without a value.

fields.py    Subject, Field: a table's columns, and what values they take
filters.py   read: a filter as a condition
order.py     place, beyond: total orders, and the rows behind one of them
"""

from manydb.criteria.fields import Field, Subject
from manydb.criteria.filters import Criterion, read
from manydb.criteria.order import Key, beyond, last_if_null, place, same
from manydb.dialects.comparing import Double, Exact, Extreme, Given

__all__ = [
    "Criterion",
    "Double",
    "Exact",
    "Extreme",
    "Field",
    "Given",
    "Key",
    "Subject",
    "beyond",
    "last_if_null",
    "place",
    "read",
    "same",
]
