"""The wheel, built from this checkout and installed into an empty environment outside of it."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import manydb

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds manydb and what it depends on, and a folder to work in."""

    binaries: Path
    folder: Path

    def run(self, program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run([str(self.binaries / program), *arguments], self.folder, stdin)


def run(command: Sequence[str], folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run *command* as if there were no checkout: nothing of this process's Python is passed on."""
    hidden = ("MANYDB_", "PYTHON", "VIRTUAL_ENV", "DATABASE_URL", "COVERAGE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)], ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("empty")
    python = folder / "venv" / "bin" / "python"
    made = run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
    assert made.returncode == 0, made.stderr
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    got = run([*pip, "install", "--quiet", "--no-compile", str(wheel)], folder)
    if got.returncode and "connection" in got.stderr.lower():
        refuse(f"no package index to install the wheel's dependencies from: {got.stderr.strip().splitlines()[-1]}")
    assert got.returncode == 0, got.stderr
    return Installed(python.parent, folder)


def refuse(reason: str) -> None:
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def test_the_wheel_holds_the_package_its_types_and_the_demo_schema(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    sources = {f"manydb/{path.relative_to(ROOT / 'src/manydb')}" for path in (ROOT / "src/manydb").rglob("*.py")}
    history = {f"manydb/demo/migrations/versions/{path.name}" for path in (ROOT / "migrations/versions").glob("*.py")}
    assert sources | history | {"manydb/py.typed", "manydb/demo/migrations/env.py"} <= {*names}
    assert history


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    about = f"manydb-{manydb.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"manydb", about}
    assert [name for name in names if "test" in name.lower() or name.endswith((".pyc", ".db"))] == []


def test_the_installed_command_tells_its_version(installed: Installed) -> None:
    told = installed.run("manydb", "--version")
    assert (told.returncode, told.stdout) == (0, f"manydb {manydb.__version__}\n")


def test_the_installed_command_is_not_the_checkout(installed: Installed) -> None:
    told = installed.run("python", "-c", "import manydb; print(manydb.__file__)")
    assert Path(told.stdout.strip()).is_relative_to(installed.folder)


def test_the_installed_demo_runs(installed: Installed) -> None:
    told = installed.run("manydb", "demo")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "shop" in told.stdout
    assert "Traceback" not in told.stderr


def test_the_installed_server_answers(installed: Installed) -> None:
    arguments = {"sql": "SELECT 6 * 7"}
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    call = {"name": "execute_query", "arguments": arguments, "_meta": meta}
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    (installed.folder / "empty.db").touch()
    told = installed.run(
        "python", "-m", "manydb", "serve", "--connection", "x=sqlite:///empty.db", stdin=message + "\n"
    )
    assert (told.returncode, told.stderr) == (0, "")
    answer = json.loads(json.loads(told.stdout)["result"]["content"][0]["text"])
    assert answer["rows"] == [[42]]
