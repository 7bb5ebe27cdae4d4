"""The rows of a query in a file, however many they are: read slice by slice, written as they come, never half.

shelf.py    Exports, Export: what callers have exported
files.py    where files may be, and how they come into being
writers.py  WRITERS: rows as CSV, JSON Lines, Parquet
"""

from manydb.exports.shelf import PART_BYTES, Export, Exports
from manydb.exports.writers import MIME_TYPES, WRITERS, ExportFormat

__all__ = ["MIME_TYPES", "PART_BYTES", "WRITERS", "Export", "ExportFormat", "Exports"]
