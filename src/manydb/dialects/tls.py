"""TLS as the databases' own tools mean it: one ladder of modes, one way to name certificates."""

import ssl
from pathlib import Path

from manydb.errors import BadParameter, TlsFailed

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# MySQL's own names for the same ladder, and what SQLAlchemy URLs of asyncpg say.
_SYNONYMS = {
    "disabled": "disable", "preferred": "prefer", "required": "require", "verify_ca": "verify-ca",
    "verify_identity": "verify-full", "false": "disable", "true": "require",
}  # fmt: skip
# What a URL may call the options: libpq's, the mysql client's and the drivers' spellings.
OPTIONS = {
    "sslmode": "sslmode", "ssl": "sslmode", "ssl-mode": "sslmode", "ssl_mode": "sslmode",
    "sslrootcert": "sslrootcert", "ssl-ca": "sslrootcert", "ssl_ca": "sslrootcert",
    "sslcert": "sslcert", "ssl-cert": "sslcert", "ssl_cert": "sslcert",
    "sslkey": "sslkey", "ssl-key": "sslkey", "ssl_key": "sslkey",
}  # fmt: skip


def mode(text: str) -> str:
    """The canonical mode. Raises BadParameter."""
    lower = text.lower()
    known = _SYNONYMS.get(lower, lower)
    if known not in MODES:
        raise BadParameter(f"sslmode is one of {', '.join(MODES)}")
    return known


def context(chosen: str, rootcert: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """What the driver needs for *chosen* ("prefer" and above).

    As in libpq, "require" verifies the certificate where a root certificate is named. The system's certificates stand
    in for one that "verify-ca" and "verify-full" need and nobody named. Raises TlsFailed for an unreadable file.
    """
    made = ssl.create_default_context()
    made.check_hostname = chosen == "verify-full"
    if not (chosen.startswith("verify") or (chosen == "require" and rootcert)):
        made.verify_mode = ssl.CERT_NONE
    try:
        if rootcert:
            made.load_verify_locations(cafile=Path(rootcert).expanduser())
        if cert:
            made.load_cert_chain(Path(cert).expanduser(), Path(key).expanduser() if key else None)
    except (OSError, ssl.SSLError) as exc:
        raise TlsFailed(f"a certificate of the connection cannot be read: {exc.strerror or 'not PEM'}") from exc
    return made
