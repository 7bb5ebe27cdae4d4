"""Rows without SQL: chosen, changed and deleted by conditions on the columns of one table, on every database alike.

What reaches the database is a statement like any other: judged by the connection's policy, recorded with placeholders,
previewed, confirmed, and part of an open transaction where one is named.

subjects.py  the table, its masked columns, its key
plans.py     Selection: which rows, and what of them
reading.py   Rows: pages and cursors
changes.py   changing, deleting: what `Writes` performs and previews
"""

from manydb.rows.changes import Make, changing, deleting
from manydb.rows.plans import FUNCTIONS, Function, Selection
from manydb.rows.reading import Found, Rows

__all__ = ["FUNCTIONS", "Found", "Function", "Make", "Rows", "Selection", "changing", "deleting"]
