"""One spelling of every URL; options that mean what they mean in the databases' tools; passwords that stay inside."""

import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import make_url

from manydb import dialects, transactions
from manydb.callers import PROCESS
from manydb.connections import Connections
from manydb.engines import EngineRegistry
from manydb.errors import AuthFailed, BadParameter, ManydbError, SettingsError, TlsFailed, Unreachable
from tests.conftest import Databases
from tests.observers import leased, settings, wired

POSTGRESQL_DEFAULT, POSTGRESQL_OTHER = ("psycopg", "asyncpg") if find_spec("psycopg") else ("asyncpg", "psycopg")
MYSQL_DEFAULT = "asyncmy" if find_spec("asyncmy") else "aiomysql"
SECRET = "S3cr3t/p@ss"
QUOTED = "S3cr3t%2Fp%40ss"


async def value(url: str, sql: str) -> Any:
    """The first value of what *sql* reads at *url*."""
    async with leased(url) as lease:
        rows = await transactions.read(lease, lambda on: lease.dialect.fetch(on, sql, (), 10), timeout=5)
        return rows.rows[0][0]


async def failure(url: str) -> ManydbError:
    with pytest.raises(ManydbError) as caught:
        await value(url, "SELECT 1")
    return caught.value


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_options(url: str, **options: str) -> str:
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)


# ---- spelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "driver"),
    [
        ("postgres://h/d", f"postgresql+{POSTGRESQL_DEFAULT}"),
        ("postgresql://h/d", f"postgresql+{POSTGRESQL_DEFAULT}"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg"),
        ("postgres+asyncpg://h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg"),
        ("postgresql+psycopg_async://h/d", "postgresql+psycopg"),
        ("mysql://h/d", f"mysql+{MYSQL_DEFAULT}"),
        ("mariadb://h/d", f"mysql+{MYSQL_DEFAULT}"),
        ("mysql+aiomysql://h/d", "mysql+aiomysql"),
        ("mariadb+asyncmy://h/d", "mysql+asyncmy"),
        ("sqlite:///d.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///d.db", "sqlite+aiosqlite"),
    ],
)
def test_every_scheme_gets_its_async_driver(written: str, driver: str) -> None:
    assert dialects.parse(written)[1].drivername == driver


@pytest.mark.parametrize("hidden", ["psycopg", "psycopg_binary"])
def test_without_the_fast_driver_of_postgresql_the_other_one_serves(hidden: str) -> None:
    """In a process of its own, to which a part of psycopg is hidden."""
    script = (
        f"import sys; sys.modules['{hidden}'] = None; from manydb import dialects; "
        "print(dialects.parse('postgresql://h/d')[1].drivername, dialects.parse('postgres://h/d')[1].drivername)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["postgresql+asyncpg", "postgresql+asyncpg"]


def test_without_the_fast_driver_of_mysql_the_other_one_serves() -> None:
    """In a process of its own, to which asyncmy is hidden."""
    script = (
        "import sys; sys.modules['asyncmy'] = None; from manydb import dialects; "
        "print(dialects.parse('mysql://h/d')[1].drivername, dialects.parse('mysql+aiomysql://h/d')[1].drivername)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["mysql+aiomysql", "mysql+aiomysql"]


@pytest.mark.parametrize(
    ("distribution", "module", "release", "written", "other"),
    [
        ("asyncmy", "asyncmy", "0.2.10", "mysql://h/d", "mysql+aiomysql"),
        ("asyncmy", "asyncmy", "0.3.0", "mysql://h/d", "mysql+aiomysql"),
        ("psycopg-binary", "psycopg_binary", "3.2.9", "postgresql://h/d", "postgresql+asyncpg"),
        ("psycopg-binary", "psycopg_binary", "3.4.0", "postgresql://h/d", "postgresql+asyncpg"),
    ],
)
def test_a_release_of_a_fast_driver_that_nobody_tried_is_not_taken_unasked(
    distribution: str, module: str, release: str, written: str, other: str, tmp_path: Path
) -> None:
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").touch()
    about = tmp_path / f"{distribution.replace('-', '_')}-{release}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {release}\n")
    script = f"from manydb import dialects; print(dialects.parse({written!r})[1].drivername)"
    environment = {"PYTHONPATH": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == other


@pytest.mark.parametrize(
    "written",
    [
        "postgresql+psycopg2://u:{secret}@h/d", "postgresql+pg8000://u:{secret}@h/d", "mysql+pymysql://u:{secret}@h/d",
        "mysql+mysqldb://u:{secret}@h/d", "sqlite+pysqlite:///d.db", "oracle://u:{secret}@h/d", "cobol://u:{secret}@h/d",
        "postgresql+asyncmy://u:{secret}@h/d",
    ],
)  # fmt: skip
def test_what_is_not_async_or_not_known_is_refused_with_the_list_of_what_works(written: str) -> None:
    with pytest.raises(BadParameter) as caught:
        dialects.parse(written.format(secret=QUOTED))
    message = caught.value.message
    assert all(
        name in message for name in (f"postgresql+{POSTGRESQL_DEFAULT}", f"mysql+{MYSQL_DEFAULT}", "sqlite+aiosqlite")
    )
    assert SECRET not in message
    assert QUOTED not in message


@pytest.mark.parametrize(
    "written",
    ["", "shop", "postgresql:/h/d", "postgresql://u:{secret}@h:port/d", "postgresql://u:{secret}@h/d\nx", "x" * 5_000],
)
def test_what_is_no_url_is_refused_without_being_repeated(written: str) -> None:
    with pytest.raises(BadParameter) as caught:
        dialects.parse(written.format(secret=QUOTED))
    assert caught.value.__cause__ is None
    assert QUOTED not in str(caught.value)


@pytest.mark.parametrize(
    "same",
    [
        ("postgres://u@DB.Example.com/d", "postgresql://u@db.example.com:5432/d", f"postgresql+{POSTGRESQL_DEFAULT}://u@db.example.com/d"),
        ("mysql://u@H/d", "mariadb://u@h:3306/d", "mysql://u@h/d?charset=utf8mb4"),
        ("postgresql://h/d?sslmode=require&application_name=a", "postgresql://h/d?application_name=a&ssl=true"),
        ("mysql://h/d?ssl-mode=REQUIRED", "mysql://h/d?ssl_mode=required", "mysql://h/d?sslmode=require"),
        ("mysql://h/d?ssl-ca=/ca.pem&ssl-mode=VERIFY_IDENTITY", "mysql://h/d?sslmode=verify-full&sslrootcert=/ca.pem"),
        ("mysql://h/d?connect-timeout=3", "mysql://h/d?connect_timeout=03"),
        ("postgresql://u:p%40ss@h/d", "postgresql://u:p%40ss@h:5432/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg_async://h/d"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db?mode=ro", "sqlite:///file:/tmp/a.db?mode=rw&uri=true"),
    ],
    ids=lambda same: same[0],
)  # fmt: skip
def test_spellings_of_one_database_are_one(same: tuple[str, ...]) -> None:
    assert len({dialects.parse(written)[1] for written in same}) == 1


@pytest.mark.parametrize(
    "different",
    [
        ("postgresql://u@h/d", "postgresql://v@h/d"),
        ("postgresql://u:a@h/d", "postgresql://u:b@h/d"),
        ("postgresql://h/d", "postgresql://h/D"),
        ("postgresql://h/d", f"postgresql+{POSTGRESQL_OTHER}://h/d"),
        ("mysql://h/d", "mysql://h:3307/d"),
        ("postgresql://h/d?sslmode=require", "postgresql://h/d?sslmode=verify-full"),
    ],
)
def test_different_databases_stay_different(different: tuple[str, ...]) -> None:
    assert len({dialects.parse(written)[1] for written in different}) == len(different)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("postgresql://h/d?sslmode=maybe", "sslmode is one of disable"),
        ("postgresql://h/d?passfile=/etc/shadow", "no option 'passfile'"),
        ("postgresql://h/d?service=x", "no option 'service'"),
        ("postgresql://h/d?password=x", "no option 'password'"),
        ("postgresql://h/d?connect_timeout=soon", "whole number"),
        ("postgresql://h/d?sslmode=require&ssl=disable", "twice"),
        ("postgresql://h/d?options=-c%20default_transaction_read_only%3Doff", "gateway's own"),
        ("postgresql://h/d?options=--statement-timeout%3D0", "gateway's own"),
        ("postgresql://h/d?options=geqo", "list of settings"),
        ("mysql://h/d?init_command=DROP", "no option 'init_command'"),
        ("mysql://h/d?sql_mode=x", "no option 'sql_mode'"),
        ("mysql://h/d?read_default_file=/x", "no option 'read_default_file'"),
        ("mysql://h/d?local_infile=1", "no option 'local_infile'"),
        ("mysql://h/d?charset=latin1", "charset is utf8mb4"),
        ("sqlite://host/d.db", "three slashes"),
        ("sqlite:///d.db?mode=rwc", "mode is ro or rw"),
        ("sqlite:///~/d.db", "without '~'"),
        ("sqlite:///d.db?vfs=x", "no option 'vfs'"),
    ],
)
def test_options_that_are_wrong_or_run_code_are_refused(written: str, said: str) -> None:
    with pytest.raises(BadParameter, match=said):
        dialects.parse(written)


# ---- connections given in parts -------------------------------------------------------------------------------------


def registered(**given: Any) -> Any:
    return Connections.configured(settings(connections={"shop": given})).get(PROCESS, "shop")


def test_parts_fill_in_what_a_url_leaves_out() -> None:
    url = registered(url="postgresql://h/d", port=5433, user="ada", password=SECRET).target.url
    assert (url.port, url.username, url.password) == (5433, "ada", SECRET)


def test_a_part_that_contradicts_the_url_is_a_start_up_error() -> None:
    with pytest.raises(SettingsError, match=r"connections\.shop\.port: disagrees with the url"):
        registered(url="postgresql://h:5432/d", port=5433)


@pytest.mark.parametrize(
    ("driver", "agrees"),
    [
        ("postgresql", True),
        ("postgres", True),
        (f"postgresql+{POSTGRESQL_DEFAULT}", True),
        (f"postgresql+{POSTGRESQL_OTHER}", False),
        ("mysql", False),
        ("sql", False),
    ],
)
def test_a_driver_agrees_with_the_url_or_is_a_start_up_error(driver: str, agrees: bool) -> None:
    given = {"url": "postgres://h/d", "driver": driver}
    if agrees:
        assert registered(**given).target.url.drivername == f"postgresql+{POSTGRESQL_DEFAULT}"
    else:
        with pytest.raises(SettingsError, match=r"connections\.shop\.driver: disagrees with the url"):
            registered(**given)


def test_a_part_that_repeats_the_url_is_none() -> None:
    assert registered(url="postgres://DB/d", host="db", driver="postgresql", database="d").target.url.host == "db"


# ---- options at work ------------------------------------------------------------------------------------------------

POSTGRESQL_DRIVERS = ["postgresql+asyncpg", "postgresql+psycopg"]
MYSQL_DRIVERS = ["mysql+aiomysql", "mysql+asyncmy"]


@pytest.fixture(scope="module")
async def postgresql(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("postgresql") as url:
        yield url


@pytest.fixture(scope="module")
async def mysql(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("mysql") as url:
        yield url


def by(driver: str, url: str) -> str:
    return make_url(url).set(drivername=driver).render_as_string(hide_password=False)


@pytest.fixture(params=POSTGRESQL_DRIVERS)
def pg(request: pytest.FixtureRequest, postgresql: str) -> str:
    """A PostgreSQL database, by each driver."""
    return by(request.param, postgresql)


@pytest.fixture(params=MYSQL_DRIVERS)
def my(request: pytest.FixtureRequest, mysql: str) -> str:
    return by(request.param, mysql)


async def test_the_application_is_named_in_the_servers_list(pg: str) -> None:
    ask = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    assert await value(pg, ask) == "manydb"
    assert await value(with_options(pg, application_name="the shop's gateway"), ask) == "the shop's gateway"


async def test_options_and_search_path_reach_the_server(pg: str) -> None:
    url = with_options(pg, options="-c geqo=off --work-mem=7MB", search_path="pg_catalog, public")
    assert await value(url, "SELECT current_setting('geqo') || current_setting('work_mem')") == "off7MB"
    assert await value(url, "SHOW search_path") == "pg_catalog, public"


async def test_a_reading_engine_is_read_only_before_any_transaction_says_so(pg: str) -> None:
    assert await value(pg, "SHOW default_transaction_read_only") == "on"


async def test_environment_and_home_fill_in_nothing(pg: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:*:*:elsewhere\n")
    passfile.chmod(0o644)  # which drivers complain about when they read it
    wrong = {
        "PGHOST": "192.0.2.1", "PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGUSER": "nobody", "PGPASSWORD": SECRET,
        "PGDATABASE": "nothing", "PGPASSFILE": str(passfile), "PGOPTIONS": "-c work_mem=7MB", "PGAPPNAME": "other",
        "PGSSLMODE": "verify-full", "PGSSLCERT": "/none", "PGSSLKEY": "/none", "PGSSLROOTCERT": "/none",
        "PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "scram-sha-256",
        "PGCONNECT_TIMEOUT": "1", "PGCLIENTENCODING": "LATIN1",
    }  # fmt: skip
    for name, text in wrong.items():
        monkeypatch.setenv(name, text)
    assert await value(pg, "SELECT current_setting('work_mem') = '7MB'") is False
    assert await value(pg, "SHOW client_encoding") == "UTF8"


async def test_an_unknown_database_is_unreachable(pg: str) -> None:
    found = await failure(make_url(pg).set(database="no_such_database").render_as_string(hide_password=False))
    assert isinstance(found, Unreachable)


@pytest.mark.parametrize("driver", [*POSTGRESQL_DRIVERS, *MYSQL_DRIVERS])
async def test_a_server_that_never_answers_is_given_up_at_connect_timeout(
    postgresql: str, mysql: str, driver: str
) -> None:
    async with wired(by(driver, mysql if driver in MYSQL_DRIVERS else postgresql)) as (wire, url):
        wire.hold()
        # libpq does not wait for less than two seconds.
        found = await failure(with_options(url, connect_timeout="2" if "psycopg" in driver else "1"))
        assert isinstance(found, Unreachable)


async def test_nobody_listening_is_unreachable_with_its_place(unused_port: int) -> None:
    for driver in (*POSTGRESQL_DRIVERS, *MYSQL_DRIVERS):
        found = await failure(f"{driver}://u:{QUOTED}@127.0.0.1:{unused_port}/d")
        assert isinstance(found, Unreachable)
        assert f"127.0.0.1:{unused_port}/d" in found.message
        assert SECRET not in repr(found.as_dict())


async def test_a_wrong_password_is_told_as_such_and_not_repeated(my: str) -> None:
    url = make_url(my).set(username="nobody_of_this_name", password=SECRET).render_as_string(hide_password=False)
    found = await failure(url)
    assert isinstance(found, AuthFailed)
    assert SECRET not in repr(found.as_dict())


def test_no_repr_shows_a_password() -> None:
    registration = registered(url=f"postgresql://u:{QUOTED}@h/d")
    assert SECRET not in repr(registration)
    assert SECRET not in registration.location
    assert SECRET not in repr(EngineRegistry(settings(connections={"x": {"url": f"mysql://u:{QUOTED}@h/d"}})))


async def test_no_repr_of_a_lease_shows_a_password(postgresql: str) -> None:
    url = make_url(postgresql).set(password=SECRET).render_as_string(hide_password=False)
    async with leased(url) as lease:
        assert SECRET not in repr(lease)


# ---- TLS ------------------------------------------------------------------------------------------------------------

DEMANDING = ["require", "verify-ca", "verify-full"]


@pytest.mark.parametrize("sslmode", DEMANDING)
async def test_tls_that_is_demanded_is_never_done_without(pg: str, sslmode: str) -> None:
    async with wired(pg) as (wire, url):
        assert isinstance(await failure(with_options(url, sslmode=sslmode)), TlsFailed)
        assert wire.accepted == 1, "one attempt, and no second one in plain text"


@pytest.mark.parametrize("sslmode", DEMANDING)
async def test_mysql_sends_nothing_where_demanded_tls_is_missing(my: str, sslmode: str) -> None:
    async with wired(make_url(my).set(username="not_for_the_wire").render_as_string(hide_password=False)) as (
        wire,
        url,
    ):
        assert isinstance(await failure(with_options(url, sslmode=sslmode)), TlsFailed)
        assert wire.accepted == 1
        assert b"not_for_the_wire" not in wire.sent


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer"])
async def test_tls_that_is_not_demanded_is_done_without(pg: str, my: str, sslmode: str) -> None:
    assert await value(with_options(pg, sslmode=sslmode), "SELECT 1") == 1
    assert await value(with_options(my, sslmode=sslmode), "SELECT 1") == 1


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost (server.pem) that is its own authority (ca.pem), and a stranger's."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "stranger"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self_signed(key)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.pem").write_bytes(secret + pem)
        (folder / f"{name}-ca.pem").write_bytes(pem)
    return folder


def self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


@pytest.fixture
async def encrypted(pg: str, certificates: Path) -> AsyncGenerator[Callable[..., str]]:
    """A function from options to the URL of a database behind a wire that speaks TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    async with wired(pg, context) as (_, url):
        yield lambda host="localhost", **options: with_options(
            make_url(url).set(host=host).render_as_string(hide_password=False), **options
        )


async def test_tls_is_spoken_where_it_is_demanded(encrypted: Callable[..., str], certificates: Path) -> None:
    own, stranger = str(certificates / "server-ca.pem"), str(certificates / "stranger-ca.pem")
    assert await value(encrypted(sslmode="require"), "SELECT 1") == 1
    assert await value(encrypted(sslmode="verify-ca", sslrootcert=own, host="127.0.0.1"), "SELECT 1") == 1
    assert await value(encrypted(sslmode="verify-full", sslrootcert=own), "SELECT 1") == 1
    for distrusted in (
        encrypted(sslmode="verify-full"),  # by the system's authorities
        encrypted(sslmode="verify-full", sslrootcert=stranger),
        encrypted(sslmode="verify-ca", sslrootcert=stranger),
        encrypted(sslmode="require", sslrootcert=stranger),  # as in libpq, a root certificate makes it verify-ca
        encrypted(sslmode="verify-full", sslrootcert=own, host="127.0.0.1"),  # another name than the certificate's
    ):
        assert isinstance(await failure(distrusted), TlsFailed), distrusted


async def test_a_certificate_that_cannot_be_read_is_told(pg: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    found = await failure(with_options(pg, sslmode="verify-full", sslrootcert=missing))
    assert isinstance(found, TlsFailed)
