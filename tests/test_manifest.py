"""What is stored of the first answers is what the server answers."""

import json
import os
from itertools import chain, combinations
from pathlib import Path
from typing import Any, get_args

import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from manydb import manifest
from manydb.admission import AdmissionPolicy
from manydb.manifest import Manifest
from manydb.server import build_server
from manydb.settings import Group, Settings
from manydb.tools import TOOLS
from tests.lanes import ENVELOPE, over_stdio

STORED = Path(manifest.__file__).with_name(manifest.FILE)
GROUPS: tuple[Group, ...] = get_args(Group)
EVERYTHING = {"tools": GROUPS, "registration_access": "admin"}
NO_JOBS = tuple(group for group in GROUPS if group != "jobs")


async def greeting_and_tools(settings: Settings, version: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a server of *settings* answers to a handshake of *version*, and its list of tools."""
    hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    async with over_stdio(build_server(settings)) as line:
        greeting = json.loads(await line.ask("initialize", hello))["result"]
        line.send("notifications/initialized", {})
        return greeting, json.loads(await line.ask("tools/list", {}))["result"]["tools"]


async def discovery_and_page(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What it answers to who does not shake hands."""
    async with over_stdio(build_server(settings)) as line:
        discovery = json.loads(await line.ask("server/discover", {"_meta": ENVELOPE}))["result"]
        return discovery, json.loads(await line.ask("tools/list", {"_meta": ENVELOPE}))["result"]


async def test_what_is_stored_is_what_the_server_answers() -> None:
    greeting, tools = await greeting_and_tools(Settings.model_validate(EVERYTHING), HANDSHAKE_PROTOCOL_VERSIONS[-1])
    discovery, page = await discovery_and_page(Settings.model_validate(EVERYTHING | {"tools": NO_JOBS}))
    listed = {tool["name"]: tool for tool in tools}
    del greeting["protocolVersion"], greeting["serverInfo"]["version"], page["tools"]
    for each in (discovery, page):
        del each["_meta"]["io.modelcontextprotocol/serverInfo"]["version"]
    current = {
        "versions": HANDSHAKE_PROTOCOL_VERSIONS,
        "greeting": greeting,
        "discovery": discovery,
        "page": page,
        "tools": [
            {"group": tool.group, "access": tool.access, "registers": tool.registers, "tool": listed[tool.name]}
            for tool in TOOLS
        ],
    }
    written = json.dumps(current, ensure_ascii=False, indent=1) + "\n"
    if os.environ.get("MANYDB_TEST_MANIFEST") == "write":
        STORED.write_text(written, encoding="utf-8")
    assert written == STORED.read_text(encoding="utf-8"), "run: make manifest"


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_every_version_is_greeted_as_the_server_greets_it(version: str) -> None:
    settings = Settings.model_validate({})
    stored = Manifest.stored(settings, None).greeting
    assert {"protocolVersion": version, **stored} == (await greeting_and_tools(settings, version))[0]


def test_without_a_handshake_the_versions_are_those_of_the_protocol_library() -> None:
    discovery = Manifest.stored(Settings.model_validate({}), None).discovery
    assert discovery is not None
    assert discovery["supportedVersions"] == list(MODERN_PROTOCOL_VERSIONS)


@pytest.mark.parametrize(
    "given",
    [
        *({"tools": groups} for groups in chain.from_iterable(combinations(GROUPS, size) for size in (1, 2))),
        EVERYTHING,
        {"tools": NO_JOBS},
        {"tools": GROUPS, "registration": False},
        {"tools": GROUPS, "registration": False, "connections": {"x": {"url": "sqlite:///x.db", "access": "admin"}}},
        {"tools": GROUPS, "connections": {"x": {"url": "sqlite:///x.db", "access": "read_write"}}},
    ],
    ids=str,
)
async def test_the_stored_answers_are_the_servers_for_all_settings(given: dict[str, Any]) -> None:
    settings = Settings.model_validate(given)
    stored = Manifest.stored(settings, AdmissionPolicy.configured(settings, local=True))
    assert stored.tools == (await greeting_and_tools(settings, HANDSHAKE_PROTOCOL_VERSIONS[-1]))[1]
    discovery, page = await discovery_and_page(settings)
    assert stored.page == page
    assert stored.discovery in (discovery, None)
    assert (stored.discovery is None) == ("jobs" in settings.tools)
