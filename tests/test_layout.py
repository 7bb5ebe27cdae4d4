"""What is written about manydb says what manydb is."""

import re
import subprocess
from pathlib import Path

import pytest

import manydb
from manydb.dialects import DIALECTS
from manydb.formats import FORMATS
from manydb.settings import ConnectionSettings, Settings
from manydb.tools import TOOLS

ROOT = Path(__file__).parents[1]
SETTINGS = [*Settings.model_fields, *(name for name in ConnectionSettings.model_fields)]

# Folders that exist on the machine of whoever wrote the file, and on no other: homes, and a workplace at the root.
MACHINE_PATH = re.compile(
    r"(?<![\w.:/~-])/(?:home|Users|root|work|workspace|mnt|private/var)/[\w.-]+|[A-Z]:\\\\?Users\\"
)


def written(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def docs() -> str:
    return written("README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md"))))


def names_missing_from(text: str, names: list[str]) -> list[str]:
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]


def test_the_readme_lists_every_tool() -> None:
    assert names_missing_from(written("README.md"), [tool.name for tool in TOOLS]) == []


def test_the_readme_lists_every_setting() -> None:
    assert names_missing_from(written("README.md"), SETTINGS) == []


def test_the_settings_page_lists_every_setting() -> None:
    assert names_missing_from(written("docs/settings.md"), SETTINGS) == []


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(written("README.md").splitlines()) <= 200


def test_the_docs_list_every_dialect() -> None:
    assert names_missing_from(docs(), [dialect.name for dialect in DIALECTS]) == []


def test_the_docs_list_every_format() -> None:
    assert names_missing_from(docs(), [*FORMATS]) == []


def test_the_changelog_names_the_current_version() -> None:
    assert re.search(rf"^## \[?{re.escape(manydb.__version__)}\]?\b", written("CHANGELOG.md"), re.MULTILINE)


def test_package_and_project_have_one_version() -> None:
    assert f'\nversion = "{manydb.__version__}"\n' in written("pyproject.toml")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("see /home/me/manydb", True),
        ("'/root/x'", True),
        ("/Users/me/x", True),
        ("C:\\Users\\me", True),
        ("https://host/home/page", False),
        ("sqlite:////data/home/x.db", False),
        ("file:/run/secrets/x", False),
        ("~/jobs/x", False),
    ],
)
def test_a_path_of_somebodys_machine_is_recognised(line: str, *, found: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) is found


def test_no_file_names_a_path_of_the_machine_that_it_was_written_on() -> None:
    guilty = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked_files()
        if path != Path(__file__) and (text := text_of(path)) is not None
        for number, line in enumerate(text.splitlines(), 1)
        for match in [MACHINE_PATH.search(line)]
        if match
    ]
    assert guilty == []


def tracked_files() -> list[Path]:
    """What git knows of, or will: new files too, unless it ignores them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nobody knows which files are ours")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str | None:
    """The text of *path*; None where it is binary."""
    content = path.read_bytes()
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None
