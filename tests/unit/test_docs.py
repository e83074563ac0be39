"""The documents say what is true: files that they name exist, links lead somewhere, routes and codes are real."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / folder / "README.md" for folder in (".", "devices", "localstack")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = [*(ROOT / "layers").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]


OBJECT_FIRST = re.compile(
    r"(?:^|[.!?] |\| |[-*] |\d\. )((?:Of (?!course)|So (?!that)|What )\w+|From (?:\w+ ){1,4}on\b)"
)
"""The beginning of a sentence that names its subject late, or says "so many" instead of the number."""
HELD_TO_CODE = {"What a pool"}
"""Sentences on a page that a test compares with a docstring."""
DOCSTRINGS_LEFT = {"bench": 17, "clients": 4, "localstack": 72, "tests": 128}
"""Sentences of docstrings that still begin so. A number may only fall."""
PLAIN = ("devices", "functions", "infra", "layers")
"""Folders whose docstrings and comments have no such sentence."""
LATE_IN_CODE = re.compile(
    rf"{OBJECT_FIRST.pattern}|(?:^|[.!?] |- )((?:Who|Whom|Whose) \w+)|\b([Ss]o (?:many|long|often|much)\b)"
)


def paragraphs(page: str) -> Iterator[str]:
    """The paragraphs, list items and table rows of a page, each on one line; no code and no headings."""
    text = re.sub(r"```.*?```|^#.*?$", "", page, flags=re.DOTALL | re.MULTILINE)
    return (" ".join(part.split()) for part in re.split(r"\n\n|\n(?=\||- |\d+\. )", text))


def docstrings(source: str) -> Iterator[str]:
    """The paragraphs of all docstrings of a module, those of its constants included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from (" ".join(part.split()) for part in node.value.value.split("\n\n"))


def comments(source: str) -> Iterator[str]:
    """The comments of a module, those on consecutive lines as one; without `noqa` and the like."""
    ended_at, words = 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = re.sub(r"^#+ ?(?:(?:noqa|type): [\w, \[\]-]*?(?:--? |$))?", "", token.string)
            if token.start[0] == ended_at + 1 and token.line.lstrip().startswith("#"):
                words.append(text)
            else:
                yield " ".join(words)
                words = [text]
            ended_at = token.end[0]
    yield " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_sentence_of_a_page_begins_with_its_subject(page: Path) -> None:
    found = [begin for part in paragraphs(page.read_text()) for begin in OBJECT_FIRST.findall(part)]
    late = [begin for begin in found if not any(held.startswith(begin) for held in HELD_TO_CODE)]
    assert late == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_gives_the_number(page: Path) -> None:
    found = [
        part for part in paragraphs(page.read_text()) if re.search(r"\bso (?:many|long|often)\b", part, re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize("folder", DOCSTRINGS_LEFT)
def test_docstrings_that_begin_with_their_object_become_fewer(folder: str) -> None:
    sources = (ROOT / folder).rglob("*.py")
    found = [begin for file in sources for part in docstrings(file.read_text()) for begin in OBJECT_FIRST.findall(part)]
    assert len(found) <= DOCSTRINGS_LEFT[folder], found


@pytest.mark.parametrize("folder", PLAIN)
def test_a_sentence_of_the_code_begins_with_its_subject(folder: str) -> None:
    late = [
        f"{file.relative_to(ROOT)}: {''.join(begin)}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for read in (docstrings, comments)
        for part in read(file.read_text())
        for begin in LATE_IN_CODE.findall(part)
    ]
    assert late == []


@pytest.mark.parametrize(
    ("sentence", "begin"),
    [
        ("Of a lock the time runs.", "Of a"),
        ("It ends. What is left goes on.", "What is"),
        ("From its return on nothing is matched.", "From its return on"),
        ("Who is asking.", "Who is"),
        ("Seconds. So many are read.", "So many"),
        ("Of course it ends. What? The market so that it may.", ""),
    ],
)
def test_a_late_subject_is_found(sentence: str, begin: str) -> None:
    assert "".join("".join(found) for found in LATE_IN_CODE.findall(sentence)) == begin


def test_comments_are_read_whole() -> None:
    source = "# One\n# two.\na = 1  # noqa: E501 -- three\n# Four.\nb = 1  # five\nc = 1  # six\n"
    assert [part for part in comments(source) if part] == ["One two.", "three Four.", "five", "six"]


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


def test_links_to_a_heading_find_it() -> None:
    lost = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([\w-]+)\)", page.read_text()):
            headings = re.findall(r"^#+ (.+)$", (page.parent / target if target else page).read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            lost += [] if anchor in anchors else [f"{page.name} -> {target}#{anchor}"]
    assert lost == []


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


def test_the_picture_of_a_run_has_the_last_screen_of_trading_and_the_result() -> None:
    sys.path.insert(0, str(ROOT / "infra"))
    try:
        from record_run import Screen, drawing, plain, scenes  # noqa: PLC0415 -- a script, not a package
    finally:
        sys.path.pop(0)
    screen = Screen()
    screen.feed("Building ...\r\n")
    for phase in ("trading, 1 s", "\x1b[31mtrading, 88 s\x1b[0m", "done, 95 s"):
        screen.feed(f"<&> {phase}\r\nticks: 3")
        screen.feed("\r\x1b[2K\x1b[1A\x1b[2K" if phase != "done, 95 s" else "\r\n")
    screen.feed('Stopping ...\r\n{"consistent": true}\r\n')
    assert [plain(row) for row in scenes(screen)][1:] == [
        "Building ...",
        "<&> trading, 88 s",
        "ticks: 3",
        "",
        "...",
        '{"consistent": true}',
    ]
    picture = drawing(scenes(screen))
    assert 'fill="#ff7b72">trading, 88 s</text>' in picture
    assert "&lt;&amp;&gt;" in picture
