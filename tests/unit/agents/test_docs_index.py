"""The search finds the section that answers, and no query can break it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roadworthy.agents.docs_index import DocsIndex, find_docs


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("How do I cancel a run?", "docs/http-api.md#cancel-a-run"),
        ("how can I stop a running run", "docs/http-api.md#cancel-a-run"),
        ("What is Roadworthy?", "README.md#roadworthy"),
        ("how does authentication work", "docs/operations.md#keys"),
        ("what happens when the server crashes", "docs/operations.md#after-a-crash"),
        ("ROADWORTHY_PORT", "docs/configuration.md#server"),
        ("Which commands do I need to run it?", "README.md#two-commands"),
    ],
)
def test_a_question_finds_the_section_that_answers_it(docs: Path, question: str, source: str) -> None:
    assert DocsIndex(docs).search(question)[0].source == source


@pytest.mark.parametrize(
    "query",
    [
        '"',
        '""" OR "a',
        "cancel AND (",
        "NEAR(cancel run)",
        "heading:cancel",
        "a* ^b -c + d",
        "'; DROP TABLE section;--",
    ],
)
def test_no_query_is_taken_for_search_syntax(docs: Path, query: str) -> None:
    index = DocsIndex(docs)
    index.search(query)
    assert index.search("cancel a run")


@pytest.mark.parametrize(
    "query", ["", "   ", "\udc80\x00", "?", "the capital of France", "Roadworthy weather in Paris"]
)
def test_what_the_docs_do_not_speak_of_finds_nothing(docs: Path, query: str) -> None:
    assert DocsIndex(docs).search(query) == []


def test_an_empty_or_missing_folder_is_an_empty_index(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing", None):
        index = DocsIndex(root)
        assert len(index) == 0
        assert index.search("cancel") == []


def test_a_folder_without_docs_below_it_is_read_whole(docs: Path) -> None:
    found = DocsIndex(docs / "docs").search("cancel a run")
    assert found[0].source == "http-api.md#cancel-a-run"


def test_a_page_that_is_not_utf8_does_not_stop_the_agent(docs: Path) -> None:
    (docs / "docs" / "broken.md").write_bytes(b"# Broken\n\nfrobnication \xff\xfe")
    assert DocsIndex(docs).search("frobnication")[0].source == "docs/broken.md#broken"


def test_many_threads_may_search_at_once(docs: Path) -> None:
    index = DocsIndex(docs)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(index.search, ["cancel a run"] * 64))
    assert {found[0].source for found in answers} == {"docs/http-api.md#cancel-a-run"}


def test_a_passage_of_a_long_section_is_bounded(docs: Path) -> None:
    passage = DocsIndex(docs).search("ROADWORTHY_OPTION_7")[0]
    assert "`ROADWORTHY_OPTION_7`" in passage.text
    assert len(passage.text) < 2100


def test_the_docs_of_a_source_checkout_are_found() -> None:
    root = find_docs()
    assert root is not None
    assert (root / "README.md").is_file()


@pytest.mark.parametrize(
    "question",
    ["What is Roadworthy?", "How do I cancel a run?", "How does authentication work?", "What if the server crashes?"],
)
def test_the_shipped_docs_answer_what_the_demo_offers_to_answer(question: str) -> None:
    index = DocsIndex(find_docs())
    if len(index) == 0:
        pytest.skip("NOT CHECKED: what the demo agent offers to answer, because this tree has no docs")
    assert index.search(question)


def test_prose_is_better_than_a_row_of_a_table_and_a_list_of_links_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Features\n\n| what | |\n| --- | --- |\n| frobnication | yes |\n")
    (tmp_path / "b.md").write_text("# Doing things\n\n" + "Many words. " * 3 + "Then comes frobnication.\n")
    (tmp_path / "c.md").write_text("# More\n\n* [Things](b.md): frobnication\n")
    found = [passage.source for passage in DocsIndex(tmp_path).search("frobnication")]
    assert found == ["b.md#doing-things", "a.md#features"]


def test_a_heading_that_asks_just_this_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Threads, and threads of threads\n\nA thread, a thread, a thread.\n")
    (tmp_path / "b.md").write_text("# What is a thread?\n\n" + "It keeps what was said in it. " * 10)
    (tmp_path / "c.md").write_text("# Other\n\nOther things.\n")
    assert DocsIndex(tmp_path).search("What is a thread?")[0].source == "b.md#what-is-a-thread"
