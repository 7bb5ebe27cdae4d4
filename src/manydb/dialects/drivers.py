"""Which drivers are installed, in a release that is known here: some names that are used of them are their own."""

import re
from importlib import metadata
from importlib.util import find_spec


def is_known(distribution: str, module: str, *, since: tuple[int, ...], before: tuple[int, ...]) -> bool:
    """Whether *module* is there, from a release of *distribution* in that range; it is not imported."""
    if find_spec(module) is None:
        return False
    try:
        release = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return since <= tuple(map(int, re.findall(r"\d+", release)[:3])) < before
