"""What clients are told first, as it is stored: the answers of the handshake and the list of tools.

Working them out takes FastMCP and the tools, most of a start; so they are written down, and a test compares.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

from manydb import __version__
from manydb.admission import AdmissionPolicy
from manydb.policy import Policy
from manydb.settings import Access, Group, Settings

FILE = "manifest.json"
_CONDITIONS = ("group", "access", "registers")
_SERVER = "io.modelcontextprotocol/serverInfo"


def is_offered(
    settings: Settings, policy: AdmissionPolicy | None, *, group: Group, access: Access, registers: bool
) -> bool:
    """Whether a tool of *group* is on, and some connection offers the *access* it needs, or one yet to be registered.

    *registers*: it is about connections of the caller's own, and *policy* says which may be (None: none).
    """
    if group not in settings.tools or (policy is None and registers):
        return False
    levels = {given.access for given in settings.connections.values()}
    if policy is not None:
        levels.add(settings.registration_access)
    return access == "read_only" or any(Policy(level).offers(access) for level in levels)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The first answers of one server, in both eras of the protocol: that of the handshake, and that of no sessions.

    *greeting* answers a handshake but for the version, one of *versions*; *discovery* the question that came after it,
    None where it is not known; *page* lists the tools, to who asks without a handshake.
    """

    versions: tuple[str, ...]
    greeting: dict[str, Any]
    discovery: dict[str, Any] | None
    page: dict[str, Any]
    tools: list[dict[str, Any]]

    @classmethod
    def stored(cls, settings: Settings, policy: AdmissionPolicy | None) -> Self:
        """Of a server of *settings*."""
        stored = json.loads(resources.files("manydb").joinpath(FILE).read_bytes())
        offers = functools.partial(is_offered, settings, policy)
        tools = [each.pop("tool") for each in stored["tools"] if offers(**{name: each[name] for name in _CONDITIONS})]
        stored["greeting"]["serverInfo"]["version"] = __version__
        for each in (stored["discovery"], stored["page"]):
            each["_meta"][_SERVER]["version"] = __version__
        return cls(
            versions=tuple(stored["versions"]),
            greeting=stored["greeting"],
            # Jobs bring an extension of the protocol where its package is installed.
            discovery=None if "jobs" in settings.tools else stored["discovery"],
            page=stored["page"] | {"tools": tools},
            tools=tools,
        )
