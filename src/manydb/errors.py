"""Every error a client can see, each named after what the caller can do next.

    ManydbError                  code, message, retry
    ├── SettingsError            start-up: the message names the file or variable and the key
    ├── UnknownConnection        UNKNOWN_CONNECTION   nearest names
    ├── Unreachable              UNREACHABLE          the database did not answer
    ├── AuthFailed               AUTH_FAILED
    ├── TlsFailed                TLS_FAILED
    ├── Forbidden                FORBIDDEN            the database or a policy says no
    ├── ReadOnly                 READ_ONLY            a write where only reads are allowed
    ├── MultipleStatements       MULTIPLE_STATEMENTS
    ├── SqlSyntax                SYNTAX
    ├── UnknownTable             UNKNOWN_TABLE        nearest names, with the quoting they need
    ├── UnknownColumn            UNKNOWN_COLUMN       the columns of the tables that the statement named
    ├── BadParameter             BAD_PARAMETER
    ├── ConstraintViolated       CONSTRAINT
    ├── StatementTimeout         TIMEOUT
    ├── PoolBusy                 POOL_BUSY
    ├── Conflict                 CONFLICT             deadlock, serialization failure, lock wait
    ├── Cancelled                CANCELLED
    ├── Expired                  EXPIRED              a handle's time is up
    ├── TooLarge                 TOO_LARGE
    ├── Unsupported              UNSUPPORTED
    ├── ConfirmationNeeded       CONFIRMATION_NEEDED  a write that somebody should look at first
    ├── OutcomeUnknown           OUTCOME_UNKNOWN      the connection was lost while a commit was under way
    ├── TooMany                  TOO_MANY             a caller's or the server's share is used up
    └── Internal                 INTERNAL             ours: please report

No message carries a password, a secret of a URL's query or a bound value.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

Retry = Literal["fix_sql", "ask_user", "later", "never"]


class ManydbError(Exception):
    """What went wrong (*message*), and what would have been right (*suggestions*; other facts in *details*)."""

    code: ClassVar[str] = "INTERNAL"
    retry: ClassVar[Retry] = "never"

    def __init__(self, message: str, *, suggestions: Sequence[str] = (), **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.suggestions = list(suggestions)
        self.details = details

    def as_dict(self) -> dict[str, Any]:
        """The JSON object that a client sees; empty keys are dropped."""
        reply = {"code": self.code, "message": self.message, "suggestions": self.suggestions, **self.details}
        return {key: value for key, value in reply.items() if value not in (None, [], {})} | {"retry": self.retry}


class SettingsError(ManydbError):
    """A start-up error: names the file or variable, and the key."""


class UnknownConnection(ManydbError):
    code = "UNKNOWN_CONNECTION"
    retry = "ask_user"


class Unreachable(ManydbError):
    code = "UNREACHABLE"
    retry = "later"


class AuthFailed(ManydbError):
    code = "AUTH_FAILED"
    retry = "ask_user"


class TlsFailed(ManydbError):
    code = "TLS_FAILED"
    retry = "ask_user"


class Forbidden(ManydbError):
    code = "FORBIDDEN"
    retry = "ask_user"


class ReadOnly(ManydbError):
    code = "READ_ONLY"
    retry = "fix_sql"


class MultipleStatements(ManydbError):
    code = "MULTIPLE_STATEMENTS"
    retry = "fix_sql"


class SqlSyntax(ManydbError):
    code = "SYNTAX"
    retry = "fix_sql"


class UnknownTable(ManydbError):
    code = "UNKNOWN_TABLE"
    retry = "fix_sql"


class UnknownColumn(ManydbError):
    code = "UNKNOWN_COLUMN"
    retry = "fix_sql"


class BadParameter(ManydbError):
    code = "BAD_PARAMETER"
    retry = "fix_sql"


class ConstraintViolated(ManydbError):
    code = "CONSTRAINT"
    retry = "fix_sql"


class StatementTimeout(ManydbError):
    code = "TIMEOUT"
    retry = "fix_sql"


class PoolBusy(ManydbError):
    code = "POOL_BUSY"
    retry = "later"


class Conflict(ManydbError):
    code = "CONFLICT"
    retry = "later"


class Cancelled(ManydbError):
    code = "CANCELLED"
    retry = "later"


class Expired(ManydbError):
    code = "EXPIRED"
    retry = "fix_sql"


class TooLarge(ManydbError):
    code = "TOO_LARGE"
    retry = "fix_sql"


class Unsupported(ManydbError):
    code = "UNSUPPORTED"
    retry = "fix_sql"


class ConfirmationNeeded(ManydbError):
    code = "CONFIRMATION_NEEDED"
    retry = "ask_user"


class OutcomeUnknown(ManydbError):
    code = "OUTCOME_UNKNOWN"
    retry = "ask_user"


class TooMany(ManydbError):
    code = "TOO_MANY"
    retry = "later"


class Internal(ManydbError):
    code = "INTERNAL"
    retry = "never"
