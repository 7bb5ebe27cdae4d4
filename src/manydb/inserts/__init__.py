"""Many rows into a table: checked against it first, sent by the driver's fastest path, all of them or by batches.

request.py  Request: what was given
fitting.py  prepare: the rows as their table and its driver take them
keys.py     the unique keys that a row is told by, and what they would tell
sending.py  insert, preview: what `Writes` performs and previews
"""

from manydb.inserts.request import Request
from manydb.inserts.sending import Batch, Mode, Outcome, insert, preview

__all__ = ["Batch", "Mode", "Outcome", "Request", "insert", "preview"]
