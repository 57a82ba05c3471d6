"""Rules for what is committed: nothing of one machine, no download addresses, docs that say what the code says."""

import re
import subprocess
import sys

import pytest

from roadworthy.cli.environment import env_name
from roadworthy.settings import Settings
from tests.architecture.repository import PACKAGE, ROOT, repository_files

TOUR = ROOT / "docs" / "tour.md"
# In parts: this file is committed too.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"pypi\.(?:org|io)",
            "python" + "hosted",
            "registry" + r"\.npmjs",
            "npm" + r"js\.com",
            r"deb\." + "debian",
            r"proxy\." + "golang",
            r"(?<![\w.}-])/(?:" + "root|work|home/\\w+" + ")/",
        ]
    )
)
LINK = re.compile(r"\[[^\]]+\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    named: list[str] = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if (found := FORBIDDEN.search(line)) and path.name != "test_repository.py":
                named.append(f"{path.relative_to(ROOT)}:{number}: {found[0]}")
    assert named == []


def test_the_tour_leads_to_modules_that_exist() -> None:
    paths = re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", TOUR.read_text(encoding="utf-8"))
    missing = [path for path in paths if not (PACKAGE / path).is_file()]
    assert len(paths) >= 9
    assert missing == []


def test_every_link_within_the_docs_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_configuration_page_is_what_the_settings_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "roadworthy.cli.config_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_setting_says_what_it_is_for(name: str) -> None:
    field = Settings.model_fields[name]
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert field.description
    assert field.description.endswith(".")
    assert f"* `{env_name(name, field)}`: {field.description}" in page
