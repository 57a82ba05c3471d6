"""Markdown is cut by heading, and code is never taken for a heading."""

from roadworthy.agents.markdown import blocks, sections, without_tables

PAGE = """
Before any heading.

# Title

See the [other page](other.md#x) and `code`.

## A `thing`, and more

```bash
# not a heading

make run
```

### Deep

Deep text.

## Empty

## A thing and more

Last.
"""


def test_a_section_knows_its_parents_and_its_anchor() -> None:
    found = {(s.parents, s.heading, s.anchor) for s in sections(PAGE, name="page")}
    assert ((), "page", "") in found
    assert ((), "Title", "title") in found
    assert (("Title",), "A thing, and more", "a-thing-and-more") in found
    assert (("Title", "A thing, and more"), "Deep", "deep") in found


def test_two_headings_alike_get_two_anchors() -> None:
    anchors = [s.anchor for s in sections(PAGE, name="page")]
    assert "a-thing-and-more" in anchors
    assert "a-thing-and-more-1" in anchors


def test_a_heading_without_text_is_no_section() -> None:
    assert "Empty" not in {s.heading for s in sections(PAGE, name="page")}


def test_a_comment_line_in_code_is_no_heading() -> None:
    code = next(s for s in sections(PAGE, name="page") if s.anchor == "a-thing-and-more")
    assert "# not a heading\n\nmake run" in code.text


def test_links_and_images_become_their_text() -> None:
    text = sections("![logo](a.png) [![b](c.svg)](d) See [this](that.md).", name="page")[0].text
    assert text == "See this."


def test_a_code_block_with_an_empty_line_is_one_block() -> None:
    assert blocks("one\n\n```\na\n\nb\n```\n\ntwo") == ["one", "```\na\n\nb\n```", "two"]


def test_a_list_of_links_is_no_text_of_a_section() -> None:
    text = sections("* [Operations](o.md): backup\n* [Keys](k.md)\n* see [Keys](k.md)", name="page")[0].text
    assert text == "* see Keys"


def test_prose_and_code_stay_when_tables_go() -> None:
    assert without_tables("one\n| a |\n| - |\ntwo\n```\n| code |\n```") == "one\ntwo\n```\n| code |\n```"
