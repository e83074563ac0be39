"""The documents say what is true: files that they name exist, links lead somewhere, routes and codes are real."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "devices" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [*(ROOT / "layers").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w./*-]+/[\w.*-]+\.(?:py|sql|sol|yaml|json))`", text)) | {"template.yaml"}
    named = {name for name in named if not name.startswith("/")}
    assert len(named) > 20
    missing = sorted(name for name in named if not list(ROOT.glob(name)))
    assert missing == []


def test_every_module_that_the_architecture_names_exists() -> None:
    named = set(re.findall(r"`(energy_market(?:\.\w+)+)`", (ROOT / "docs" / "architecture.md").read_text()))
    assert len(named) >= 10
    layer = ROOT / "layers" / "energy_market"
    assert [name for name in sorted(named) if not (layer / f"{name.replace('.', '/')}.py").exists()] == []


def test_every_row_from_the_specification_names_a_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## From the specification to here")[1]
    rows = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    for row in rows:
        assert "`" in row.rstrip("|").rpartition("|")[2], row


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_api_page_lists_the_contracts_routes() -> None:
    contract = yaml.safe_load((ROOT / "infra" / "openapi.yaml").read_text())
    page = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"`(/api/v1/[\w/{}.-]+)`", page))
    assert listed == set(contract["paths"])


def test_the_api_page_lists_the_codes_that_are_used() -> None:
    raised = r"(?:InvalidRequest|Unauthorized|Forbidden|NotFound|Conflict|PayloadTooLarge|UnsupportedMediaType)"
    used = {
        code
        for source in SOURCES
        for code in re.findall(rf"{raised}\(\s*\"(\w+)\"|_error\(\d+, \"(\w+)\"", source.read_text())
        for code in code
        if code
    }
    page = (ROOT / "docs" / "api.md").read_text().split("## Errors")[1]
    assert used <= set(re.findall(r"`(\w+)`", page))


@pytest.mark.parametrize(("page", "at_least"), [("integrity", 11), ("operations", 6)])
def test_every_test_that_a_page_names_exists(page: str, at_least: int) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / f"{page}.md").read_text())
    assert len(named) >= at_least
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_no_two_decisions_have_the_same_number() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    assert [page.read_text().split(".")[0] for page in pages] == [f"# {number + 1}" for number in range(len(pages))]


def test_the_apis_page_shows_no_markup() -> None:
    sys.path.insert(0, str(ROOT / "infra"))
    try:
        from docs_page import page  # noqa: PLC0415 -- a script beside the contract, not a package
    finally:
        sys.path.pop(0)
    shown = page(yaml.safe_load((ROOT / "infra" / "openapi.yaml").read_text()))
    assert "**" not in shown
    assert "`" not in shown
    assert "<strong>Numbers.</strong>" in shown


def test_the_operations_page_begins_with_its_contents() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    contents, _, rest = page.partition("\n## ")
    headings = re.findall(r"^##+ (.+)$", f"## {rest}", re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings]
    assert set(re.findall(r"\]\(#([\w-]+)\)", contents)) >= set(anchors) - {
        "chain-node-and-contract",
        "database-and-pooler",
    }
