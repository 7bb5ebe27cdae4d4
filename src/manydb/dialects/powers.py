"""What a login could do if nothing but the database held it back, and the login that it should be instead."""

from collections.abc import Iterable
from dataclasses import dataclass

PASSWORD = "<password>"  # noqa: S105 - stands where a person puts one
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Powers:
    """The powers of *login* beyond reading tables, as the database itself tells them.

    *can_write* says whether it could change data, files or rights. *reasons* are short texts for people, such as
    "INSERT on 12 tables"; there may be some that do not write, such as reading the server's files. *remedy* makes a
    login that reads everything in this database and does nothing else, to be run by an administrator who has put a
    password in place of PASSWORD; for a file it is shell commands.
    """

    login: str
    superuser: bool
    can_write: bool
    reasons: tuple[str, ...]
    remedy: str


def listed(names: Iterable[str]) -> str:
    """The first few of *names*, and how many more there are."""
    everything = list(names)
    named, rest = everything[:_MOST_NAMED], len(everything) - _MOST_NAMED
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
