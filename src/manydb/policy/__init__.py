"""What a connection may do and see: one object from which tools, their annotations, listings and verdicts derive.

Patterns are `table`, `schema.table` and, for masks, `table.column` and `schema.table.column`; `*` stands for any
characters within a part, and a part in double quotes is taken as it is. Deny and mask patterns ignore case, on every
database; allow patterns do so where the database's names do. Deny wins over allow. With an allow list everything else
is hidden, and a statement passes only if every table in it can be resolved. A view passes if what it reads would; one
that is allowed by its very name, without `*`, may also read tables that are not listed, but never denied ones.

patterns.py  Pattern
access.py    Policy: access levels, hints for annotations, what the schema tools show
guard.py     Guard: a policy over one database's catalog, and its verdicts
"""

from manydb import lineage
from manydb.errors import Forbidden
from manydb.policy.access import MASKED_NOTE, Hint, Policy
from manydb.policy.guard import CONCEALED, OPEN, BlockedReads, Guard, Verdict
from manydb.statements import Statement

__all__ = ["CONCEALED", "MASKED_NOTE", "OPEN", "BlockedReads", "Guard", "Hint", "Policy", "Verdict", "judge"]


def judge(policy: Policy, statement: Statement, catalog: lineage.Catalog | None = None) -> Verdict:
    """Whether *statement* may run, and what of its rows to conceal; *catalog* may be left out if the policy `is_open`.

    Raises ReadOnly, Forbidden, and UnknownTable where tables have to be resolved.
    """
    if policy.is_open:
        policy.require(statement)
        return OPEN
    if catalog is None:
        raise Forbidden("this connection hides some data, and its schema is not known", suggestions=["try again"])
    return Guard.of(policy, catalog).judge(statement)
