"""What a caller may register: the corpus of URLs, the policy's parts, and the check that every connection passes."""

import asyncio
import json
import os
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import URL, NullPool, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from manydb.admission import Address, Admission, AdmissionPolicy, working_directory
from manydb.dialects import Dialect
from manydb.dialects.mysql import MySQL
from manydb.dialects.postgresql import PostgreSQL
from manydb.errors import BadParameter, Forbidden, ManydbError, SettingsError
from manydb.server import build_server
from manydb.settings import Settings
from tests.conftest import Databases
from tests.servers import entered, new_name

CORPUS = Path(__file__).parent / "corpus"
PASSWORD = "S3cr3t/of%us"
ENCODED = "S3cr3t%2Fof%25us"
ELSEWHERE = {
    "PG_HOST": "127.0.0.1", "PG_PORT": "5432", "PG_USER": "me", "PG_PASSWORD": ENCODED, "PG_DB": "sec",
    "MY_HOST": "127.0.0.1", "MY_PORT": "3306", "MY_USER": "me", "MY_PASSWORD": ENCODED, "MY_DB": "sec",
}  # fmt: skip


def lines(name: str) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in (CORPUS / f"urls_{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["id"]: line for line in found}


ACCEPTED, REJECTED = lines("accept"), lines("reject")


def filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def make_database(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.commit()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The one directory that the operator allows, as the corpus wants it."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    for name in ("sec.db", "with space #?%.db", "ünï.db"):
        make_database(allowed / name)
    make_database(tmp_path / "outside.db")
    (allowed / "link-to-outside.db").symlink_to(tmp_path / "outside.db")
    os.mkfifo(allowed / "fifo")
    (allowed / "not-a-db.txt").write_text("not a database, although long enough for one" * 10)
    return allowed


@pytest.fixture
def policy(folder: Path) -> AdmissionPolicy:
    return AdmissionPolicy.of(networks=["public", "loopback"], directories=[folder])


_watched: list[list[tuple[str, str]]] = []


def _hook(what: str, arguments: tuple[Any, ...]) -> None:
    if _watched and (what.startswith("socket.") or what in {"open", "sqlite3.connect"}):
        _watched[-1].append((what, str(arguments[0])))


sys.addaudithook(_hook)


@contextmanager
def watched() -> Generator[list[tuple[str, str]]]:
    """What Python's audit hooks see of sockets, names and files meanwhile; reading Python's own modules left out."""
    seen: list[tuple[str, str]] = []
    _watched.append(seen)
    try:
        yield seen
    finally:
        _watched.pop()
        seen[:] = [(what, name) for what, name in seen if not name.endswith((".py", ".pyc"))]


# -- the corpus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [pytest.param(line, id=name) for name, line in ACCEPTED.items()])
def test_honest_urls_are_accepted(
    line: dict[str, Any], policy: AdmissionPolicy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The corpus is written for those that are always there.
    monkeypatch.setattr(PostgreSQL, "default_driver", "asyncpg")
    monkeypatch.setattr(MySQL, "default_driver", "aiomysql")
    values = ELSEWHERE | {"SQLITE_DIR": str(folder)}
    admission = policy.admit(filled(line["url"], values))
    for key in ("same_as", "different_from"):
        if key in line:
            other = policy.admit(filled(ACCEPTED[line[key]]["url"], values))
            assert (admission == other) is (key == "same_as")


@pytest.mark.parametrize(
    "line", [pytest.param(line, id=name) for name, line in REJECTED.items() if "rebind" not in line["url"]]
)
def test_hostile_urls_are_refused_before_anything_is_touched(
    line: dict[str, Any], policy: AdmissionPolicy, folder: Path
) -> None:
    if line.get("policy") == "loopback not allowed":
        policy = AdmissionPolicy.of(directories=[folder])
    before = sorted(folder.rglob("*"))
    with watched() as seen, pytest.raises(ManydbError) as refusal:
        policy.admit(filled(line["url"], ELSEWHERE | {"SQLITE_DIR": str(folder)}))
    assert isinstance(refusal.value, BadParameter | Forbidden)
    assert seen == []
    assert sorted(folder.rglob("*")) == before
    told = json.dumps(refusal.value.as_dict())
    assert not any(secret in told for secret in (PASSWORD, ENCODED, str(folder), "passwd", "u:p@"))
    assert refusal.value.__cause__ is None


@pytest.fixture
async def everywhere(databases: Databases, folder: Path) -> AsyncGenerator[dict[str, str]]:
    """The placeholders of the corpus, leading to real databases."""
    async with databases.temporary("postgresql") as postgresql, databases.temporary("mysql") as mysql:
        values = {"SQLITE_DIR": str(folder)}
        for prefix, url in (("PG", make_url(postgresql)), ("MY", make_url(mysql))):
            parts = (url.host, url.port, url.username, url.password or "", url.database)
            names = ("HOST", "PORT", "USER", "PASSWORD", "DB")
            values |= {f"{prefix}_{name}": str(part) for name, part in zip(names, parts, strict=True)}
        yield values


async def test_the_corpus_databases_are_reached(everywhere: dict[str, str], policy: AdmissionPolicy) -> None:
    reader = new_name()
    async with entered(policy.admit(filled(ACCEPTED["url-a-001"]["url"], everywhere)).url) as admin:
        await admin.exec_driver_sql(f"CREATE ROLE {reader} LOGIN PASSWORD '{reader}'")
        try:
            for line in ACCEPTED.values():
                if line.get("must_connect"):
                    text = filled(line["url"].replace("sec_reader", reader), everywhere)
                    assert await asked(policy.admit(text)) == 1, line["id"]
        finally:
            await admin.exec_driver_sql(f"DROP ROLE {reader}")


def engine_of(admission: Admission, resolver: "Answers | None" = None) -> AsyncEngine:
    """As the engine registry makes it, without a pool: each connect is a new connection."""
    dialect, url = admission.dialect, admission.url
    arguments = dialect.connect_args(url, "read_only", 5)
    engine = create_async_engine(dialect.driver_url(url, "read_only"), connect_args=arguments, poolclass=NullPool)
    dialect.prepare(engine, "read_only")
    admission.guard(engine, resolver)
    return engine


async def asked(admission: Admission, engine: AsyncEngine | None = None) -> Any:
    engine = engine or engine_of(admission)
    async with engine.connect() as connection:
        return (await connection.exec_driver_sql("SELECT 1")).scalar_one()


class Answers:
    """A resolver that gives one answer after the other, then the last one again."""

    def __init__(self, *answers: str | list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append((host, port))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [ip_address(each) for each in ([answer] if isinstance(answer, str) else answer)]


# -- addresses -------------------------------------------------------------------------------------------------------

REBINDING = REJECTED["url-r-166"]["url"]


@pytest.fixture(params=["postgresql", "mysql"])
async def named(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[Callable[[str], Admission]]:
    """A function from a host name to the admission of a real database under that name."""
    async with databases.temporary(request.param) as text:
        url = make_url(text)
        policy = AdmissionPolicy.of(networks=["loopback"])
        yield lambda host: policy.admit(url.set(host=host).render_as_string(hide_password=False))


async def test_a_name_that_turns_to_the_metadata_service_is_dropped_at_the_next_connect(
    named: Callable[[str], Admission],
) -> None:
    admission = named(make_url(REBINDING).host or "")
    answers = Answers("127.0.0.1", "169.254.169.254")
    engine = engine_of(admission, answers)
    assert await asked(admission, engine) == 1
    with watched() as seen, pytest.raises(Forbidden, match="link-local"):
        await asked(admission, engine)
    assert [what for what, _ in seen if what in {"socket.connect", "socket.getaddrinfo"}] == []
    assert answers.asked == [("rebind.test", admission.url.port)] * 2


async def test_a_name_is_resolved_once_for_each_connection(named: Callable[[str], Admission]) -> None:
    answers = Answers("127.0.0.1", "169.254.169.254")
    with watched() as seen:
        assert await asked(named("db.test"), engine_of(named("db.test"), answers)) == 1
    assert "db.test" not in {name for _, name in seen}
    assert len(answers.asked) == 1


async def test_one_forbidden_address_among_many_refuses_the_name(named: Callable[[str], Admission]) -> None:
    with pytest.raises(Forbidden):
        await asked(named("db.test"), engine_of(named("db.test"), Answers(["127.0.0.1", "10.0.0.1"])))


async def test_the_next_address_is_tried_where_nobody_listens(named: Callable[[str], Admission]) -> None:
    # ::1 and 127.0.0.1 are what "localhost" is to most machines, whatever its databases listen on.
    assert await asked(named("db.test"), engine_of(named("db.test"), Answers(["127.9.9.9", "127.0.0.1"]))) == 1


async def test_a_name_without_addresses_is_unknown(policy: AdmissionPolicy) -> None:
    url = policy.admit("postgresql://u:p@db.test/app").url
    with pytest.raises(socket.gaierror):
        await policy.resolve(url, Answers([]))


async def test_a_literal_is_not_resolved(policy: AdmissionPolicy) -> None:
    url = policy.admit("postgresql://u:p@[2001:db8::5]/app").url
    answers = Answers("127.0.0.1")
    assert await policy.resolve(url, answers) == (ip_address("2001:db8::5"),)
    assert answers.asked == []


async def test_localhost_is_resolved_as_this_machine_does(policy: AdmissionPolicy) -> None:
    addresses = await policy.resolve(policy.admit("postgresql://u:p@localhost/app").url)
    assert addresses
    assert all(address.is_loopback for address in addresses)


NEVER = [
    "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.170.2", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "64:ff9b:1::1",
    "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "203.0.113.7", "2001:db8::5", "2600:1f18::1", "64:ff9b::808:808"]
PRIVATE = ["10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "64:ff9b::a01:203"]
LOOPBACK = ["127.0.0.1", "127.255.0.1", "::1", "64:ff9b::7f00:1"]
SPECIAL = ["192.0.0.8", "198.18.0.1", "100::1"]


def reached(policy: AdmissionPolicy) -> set[str]:
    def is_admitted(address: str) -> bool:
        try:
            policy.check_address(ip_address(address))
        except Forbidden:
            return False
        return True

    return {address for address in (*NEVER, *PUBLIC, *PRIVATE, *LOOPBACK, *SPECIAL) if is_admitted(address)}


@pytest.mark.parametrize(
    ("networks", "addresses"),
    [
        ([], []),
        (["public"], PUBLIC),
        (["loopback"], LOOPBACK),
        (["private"], PRIVATE),
        (["public", "loopback"], PUBLIC + LOOPBACK),
        (["10.0.0.0/8"], ["10.1.2.3", "64:ff9b::a01:203"]),
        (["10.1.2.3/32", "fd12::/16"], ["10.1.2.3", "64:ff9b::a01:203", "fd12::1"]),
        (["0.0.0.0/0", "::/0"], PUBLIC + PRIVATE + LOOPBACK + SPECIAL),
    ],
)
def test_a_connection_goes_where_the_policy_says_and_never_to_metadata(
    networks: list[str], addresses: list[str]
) -> None:
    assert reached(AdmissionPolicy.of(networks=networks)) == set(addresses)


@pytest.mark.parametrize(
    "host",
    [
        "2852039166",
        "0xa9fea9fe",
        "127.1",
        "0x7f.1",
        "db.0x10",
        "1.2.3.4.5",
        "-a",
        "a..b",
        "db.example.com.",
        "db,db2",
        "a_b-",
        "é",
    ],
)
def test_a_host_that_a_resolver_may_read_otherwise_is_refused(host: str) -> None:
    with pytest.raises(BadParameter):
        AdmissionPolicy.of(networks=["0.0.0.0/0"]).admit(f"postgresql://u:p@{host}/db")


@pytest.mark.parametrize("host", ["metadata", "Metadata.Google.Internal", "localhost", "db.localhost"])
def test_names_of_this_machine_and_of_metadata_services_are_refused_at_once(host: str) -> None:
    with pytest.raises(Forbidden):
        AdmissionPolicy().admit(f"postgresql://u:p@{host}/db")


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("db.corp.example", True),
        ("DB.Corp.Example", True),
        ("corp.example", False),
        ("db.corp.example.evil.test", False),
        ("8.8.8.8", False),
    ],
)
def test_hosts_match_the_operators_patterns(host: str, admitted: bool) -> None:
    policy = AdmissionPolicy.of(hosts=["*.Corp.example"])
    if admitted:
        assert policy.admit(f"mysql://u:p@{host}/db").url.host == "db.corp.example"
    else:
        with pytest.raises(Forbidden, match=r"\*\.corp\.example"):
            policy.admit(f"mysql://u:p@{host}/db")


def test_ports_are_those_of_the_policy() -> None:
    policy = AdmissionPolicy.of(ports=[5432, "6000-6002"])
    assert policy.admit("postgresql://u:p@h/db").url.port == 5432
    assert policy.admit("postgresql://u:p@h:6002/db").url.port == 6002
    for port in (0, 22, 5433, 6003):
        with pytest.raises(Forbidden, match="allowed: 5432, 6000-6002"):
            policy.admit(f"postgresql://u:p@h:{port}/db")


def test_other_drivers_are_admitted_where_the_policy_names_them() -> None:
    policy = AdmissionPolicy.of(drivers=["postgresql+psycopg"])
    assert policy.admit("postgresql+psycopg://u:p@h/db").url.drivername == "postgresql+psycopg"
    with pytest.raises(Forbidden, match=r"postgresql\+psycopg"):
        policy.admit("mysql://u:p@h/db")


@pytest.mark.parametrize("dialect", [PostgreSQL, MySQL])
def test_a_url_that_names_no_driver_takes_the_first_that_the_policy_names(dialect: type[Dialect]) -> None:
    tried = [f"{dialect.name}+{driver}" for driver in (dialect.default_driver, *dialect.other_drivers)]
    for scheme in dialect.schemes:
        for named, taken in ((tried, tried[0]), (tried[::-1], tried[0]), (tried[1:], tried[1])):
            assert AdmissionPolicy.of(drivers=named).admit(f"{scheme}://u:p@h/db").url.drivername == taken
            assert AdmissionPolicy.of(drivers=named).admit(f"{taken}://u:p@h/db").url.drivername == taken


@pytest.mark.parametrize("written", ["mysql", "mariadb", "mysql+pymysql", "mysql+asyncmy", "mariadb+asyncmy"])
def test_no_driver_is_taken_that_the_policy_does_not_name(written: str) -> None:
    for drivers in (["postgresql+asyncpg", "sqlite+aiosqlite"], []):
        with pytest.raises(Forbidden, match="what can be registered here"):
            AdmissionPolicy.of(drivers=drivers).admit(f"{written}://u:p@h/db")
    if "+" in written:
        with pytest.raises(Forbidden, match=r"what can be registered here: mysql\+aiomysql"):
            AdmissionPolicy.of(drivers=["mysql+aiomysql"]).admit(f"{written}://u:p@h/db")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"networks": ["lan"]}, "networks: 'lan'"),
        ({"networks": ["10.0.0.1/8"]}, "networks: '10.0.0.1/8'"),
        ({"ports": ["5439-5432"]}, "ports: '5439-5432'"),
        ({"ports": ["0"]}, "ports: '0'"),
        ({"ports": ["pg"]}, "ports: 'pg'"),
        ({"directories": ["data"]}, "directories: 'data'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_a_settings_error(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AdmissionPolicy.of(**policy)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"registration_networks": ["lan"]}, "registration_networks: 'lan' is neither"),
        ({"registration_ports": ["pg"]}, "registration_ports: 'pg' is neither"),
        ({"registration_directories": ["data"]}, "registration_directories: 'data' is not an absolute path"),
        ({"registration_drivers": ["postgresql"]}, r"written in full: postgresql\+(asyncpg|psycopg)"),
        ({"registration_drivers": ["nosuch+driver"]}, "registration_drivers: 'nosuch.driver': the driver"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_before_anything_is_opened(given: dict[str, Any], message: str) -> None:
    settings = Settings.model_validate({"registration": True} | given)
    with pytest.raises(SettingsError, match=message):
        AdmissionPolicy.configured(settings, local=False)
    with pytest.raises(SettingsError, match=message):
        build_server(settings, local=False)


def test_the_command_line_names_the_variable_of_such_a_setting(tmp_path: Path) -> None:
    environment = {**os.environ, "MANYDB_REGISTRATION_PORTS": '["pg"]'}
    ran = subprocess.run(
        [sys.executable, "-m", "manydb", "serve"], capture_output=True, text=True, env=environment, cwd=tmp_path,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith("manydb: MANYDB_REGISTRATION_PORTS: registration_ports: 'pg'")


def test_what_may_be_registered_depends_on_who_is_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    settings = Settings.model_validate({})
    assert AdmissionPolicy.configured(settings, local=False) is None
    local = AdmissionPolicy.configured(settings, local=True)
    assert local is not None
    assert (local.allow_public, local.allow_loopback, local.directories) == (True, True, (folder.resolve(),))
    remote = AdmissionPolicy.configured(Settings.model_validate({"registration": True}), local=False)
    assert remote is not None
    assert (remote.allow_public, remote.allow_loopback, remote.directories) == (True, False, ())
    assert AdmissionPolicy.configured(Settings.model_validate({"registration": False}), local=True) is None


def test_an_admission_shows_no_password(policy: AdmissionPolicy) -> None:
    admission = policy.admit(f"postgresql://u:{ENCODED}@h/db")
    assert admission.url.password == PASSWORD
    assert not any(secret in repr(admission) for secret in (PASSWORD, ENCODED))


PIECES = [
    "postgresql://", "sqlite:///", "mysql+aiomysql://", "u", ":", "p", "@", "h", "/", "db", "?", "#", "%", "%00", "%zz",
    "[", "]", "::1", "ssl=require", "&", "..", "\\", "\n", "\ud800", "é", "127.1", "0", "99999",
    "file:", ":memory:", "~",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=40))
@example("postgresql://u:p@[::1/db")
@example("postgresql://u:p@[1.2.3]/db")
def test_any_text_is_admitted_or_refused(text: str) -> None:
    try:
        admission = AdmissionPolicy().admit(text)
    except (BadParameter, Forbidden):
        return
    assert admission.url.host
    assert admission.url.username
    assert admission.url.database


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key for db.test, in one file, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db.test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("db.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "db.pem"
    file.write_bytes(private + built.public_bytes(pem))
    return file


async def _offer_tls_as_postgresql(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_recv(client, 8)
    await loop.sock_sendall(client, b"S")


async def _offer_tls_as_mysql(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    capabilities = 0x0008_AA00  # protocol 41, TLS, transactions, secure connection, authentication plug-ins
    low, high = capabilities & 0xFFFF, capabilities >> 16
    greeting = b"\x0a8.0.0\0" + struct.pack("<I", 1) + b"saltsalt\0" + struct.pack("<HBHHB", low, 45, 2, high, 21)
    greeting += bytes(10) + b"saltsaltsalt\0mysql_native_password\0"
    await loop.sock_sendall(client, struct.pack("<I", len(greeting)) + greeting)
    # Not a byte more: the client goes on with TLS at once.
    await loop.sock_recv(client, 36)


OFFERS = {"postgresql": _offer_tls_as_postgresql, "mysql": _offer_tls_as_mysql}


@asynccontextmanager
async def tls_server(
    offer: Callable[[socket.socket], Awaitable[None]], certificate: Path
) -> AsyncGenerator[tuple[int, list[str | None], list[bytes]]]:
    """Its port, the host name that a client asks for, and what it sends once TLS is there; then the server hangs up."""
    loop = asyncio.get_running_loop()
    names: list[str | None] = []
    received: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _connection, name, _context: names.append(name)

    async def serve() -> None:
        client, _ = await loop.sock_accept(listener)
        await offer(client)
        reader = asyncio.StreamReader()
        with suppress(OSError):
            transport, _ = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader), client, ssl=context
            )
            received.append(await reader.read(1000))
            transport.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        serving = asyncio.create_task(serve())
        try:
            yield listener.getsockname()[1], names, received
        finally:
            await asyncio.wait_for(serving, 5)


@pytest.mark.parametrize("backend", OFFERS)
@pytest.mark.parametrize(("host", "trusted"), [("db.test", True), ("other.test", False)])
async def test_tls_verifies_the_name_although_an_address_is_dialled(
    backend: str, host: str, trusted: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    policy = AdmissionPolicy.of(networks=["loopback"])
    async with tls_server(OFFERS[backend], certificate) as (port, names, received):
        admission = policy.admit(f"{backend}://u:p@{host}:{port}/db?ssl=verify-full")
        with pytest.raises(Exception) as failure:  # noqa: PT011 - the server hangs up, or the client does; see below
            await asked(admission, engine_of(admission, Answers("127.0.0.1")))
    error = admission.dialect.connect_error(failure.value, admission.url)
    assert names == [host]
    assert any(received) is trusted
    assert (error.code == "TLS_FAILED") is not trusted


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca"])
@pytest.mark.parametrize("backend", OFFERS)
async def test_tls_asks_for_the_name_in_every_mode(
    mode: str, backend: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    policy = AdmissionPolicy.of(networks=["loopback"])
    async with tls_server(OFFERS[backend], certificate) as (port, names, received):
        admission = policy.admit(f"{backend}://u:p@db.test:{port}/db?sslmode={mode}")
        with pytest.raises(Exception):  # noqa: B017, PT011 - the server hangs up
            await asked(admission, engine_of(admission, Answers("127.0.0.1")))
    assert names == ["db.test"]
    assert any(received)


# -- files -----------------------------------------------------------------------------------------------------------


def at(path: Path) -> str:
    return URL.create("sqlite", database=str(path)).render_as_string()


@pytest.mark.parametrize("name", ["sec.db", "with space #?%.db", "ünï.db"])
async def test_files_with_any_name_are_opened(name: str, policy: AdmissionPolicy, folder: Path) -> None:
    admission = policy.admit(at(folder / name))
    assert admission.url.database == str(folder / name)
    assert await asked(admission) == 1


def test_a_link_within_the_directory_is_registered_as_what_it_leads_to(policy: AdmissionPolicy, folder: Path) -> None:
    (folder / "link.db").symlink_to("sec.db")
    assert policy.admit(at(folder / "link.db")) == policy.admit(at(folder / "sec.db"))


def test_a_directory_may_itself_be_a_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    for written in (link, folder):
        admission = AdmissionPolicy.of(directories=[link]).admit(at(written / "sec.db"))
        assert admission.url.database == str(folder / "sec.db")


@pytest.mark.parametrize("name", ["link-to-outside.db", "fifo", "not-a-db.txt", "empty.db", "sub/../sec.db", "loop.db"])
def test_what_is_no_database_of_the_directory_is_refused(name: str, policy: AdmissionPolicy, folder: Path) -> None:
    (folder / "empty.db").touch()
    (folder / "loop.db").symlink_to("loop.db")
    with pytest.raises((BadParameter, Forbidden)) as refusal:
        policy.admit(at(folder / name))
    assert str(folder.parent) not in refusal.value.message


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/self/root/etc/passwd", "/dev/zero", "/sys/kernel/uevent_seqnum"]
)
def test_devices_and_processes_are_refused_although_everything_is_allowed(path: str) -> None:
    with pytest.raises(Forbidden):
        AdmissionPolicy.of(directories=["/"]).admit(at(Path(path)))


def test_a_file_elsewhere_and_one_that_is_missing_elsewhere_are_told_alike(
    policy: AdmissionPolicy, folder: Path
) -> None:
    told = []
    for name in ("outside.db", "missing.db"):
        with pytest.raises(Forbidden) as refusal:
            policy.admit(at(folder.parent / name))
        told.append(refusal.value.message)
    assert told[0] == told[1]


@pytest.mark.parametrize("replacement", ["another file", "a link", "nothing", "a fifo"])
async def test_a_file_that_was_replaced_is_not_opened(replacement: str, policy: AdmissionPolicy, folder: Path) -> None:
    file = folder / "sec.db"
    admission = policy.admit(at(file))
    engine = engine_of(admission)
    assert await asked(admission, engine) == 1
    replace(file, replacement)
    with watched() as seen, pytest.raises(Forbidden, match="register it again"):
        await asked(admission, engine)
    assert [what for what, _ in seen if what == "sqlite3.connect"] == []


def replace(file: Path, replacement: str) -> None:
    kept = file.rename(file.with_name("kept.db"))
    if replacement == "another file":
        make_database(file)
    elif replacement == "a link":
        file.symlink_to(kept)
    elif replacement == "a fifo":
        os.mkfifo(file)


def test_registering_a_file_keeps_the_locks_that_this_process_holds_on_it(
    policy: AdmissionPolicy, folder: Path
) -> None:
    file = folder / "sec.db"
    intruder = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    with closing(sqlite3.connect(file, isolation_level=None)) as owner:
        owner.execute("BEGIN IMMEDIATE")
        policy.admit(at(file))
        ran = subprocess.run([sys.executable, "-c", intruder, file], capture_output=True, text=True, check=False)
    assert "database is locked" in ran.stderr


def test_a_database_in_wal_mode_is_registered_without_a_trace(policy: AdmissionPolicy, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "sec.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    before = sorted(folder.iterdir())
    assert policy.admit(at(folder / "sec.db")).file is not None
    assert sorted(folder.iterdir()) == before


def test_the_working_directory_counts_unless_it_is_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, project = tmp_path / "home", tmp_path / "home" / "project"
    project.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    found = {}
    for folder in (project, home, tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        found[folder] = working_directory()
    assert found == {project: (project,), home: (), tmp_path: (), Path("/"): ()}


def test_a_relative_path_starts_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    policy = AdmissionPolicy(directories=(folder,))
    assert policy.admit("sqlite:///sec.db").url.database == str(folder / "sec.db")
