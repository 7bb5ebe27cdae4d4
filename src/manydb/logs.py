"""What is logged goes to stderr: stdout is the protocol's."""

import logging
import sys

from manydb.settings import Settings


def to_stderr(settings: Settings) -> None:
    """Write what *settings* let through, from now on; where somebody writes already, nothing changes."""
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr, format=form)
