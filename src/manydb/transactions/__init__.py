"""Transactions: one around each call's work, or one that stays open across calls.

calls.py   read, write: begun, and ended, with the call
opened.py  begin, Transaction: until it is committed, closed, or lost
"""

from manydb.transactions.calls import read, write
from manydb.transactions.opened import Transaction, begin

__all__ = ["Transaction", "begin", "read", "write"]
