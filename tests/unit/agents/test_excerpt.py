"""A quote is short, in order, and about the question."""

from roadworthy.agents.excerpt import excerpt
from roadworthy.agents.terms import content_words, mentions


def test_a_short_text_is_quoted_whole() -> None:
    assert excerpt("all of it", ["nothing"], budget=100) == "all of it"


def test_a_long_text_is_reduced_to_what_speaks_of_the_question() -> None:
    text = "\n\n".join(["filler " * 10, "how to cancel", "filler " * 10])
    assert excerpt(text, ["cancel"], budget=30) == "how to cancel\n\n…"


def test_a_long_table_is_reduced_to_its_matching_rows() -> None:
    table = "| name |\n| --- |\n" + "\n".join(f"| option_{n} |" for n in range(50))
    assert excerpt(table, ["option_7"], budget=100) == "| name |\n| --- |\n| option_7 |"


def test_a_block_longer_than_the_budget_is_cut_at_a_word() -> None:
    assert excerpt("word " * 100, ["word"], budget=22) == "word word word word …"


def test_cut_code_is_closed_again() -> None:
    code = "```bash\n" + "make run\n" * 50 + "```"
    assert excerpt(code, ["make"], budget=40).endswith("…\n```")


def test_a_greeting_has_no_words_worth_searching() -> None:
    assert content_words("Hi there! What can you do?") == []
    assert content_words("…?!") == []
    assert content_words("\udc80 \x00 * ^") == []


def test_words_are_found_in_other_inflections_and_by_their_synonyms() -> None:
    assert mentions("Cancelling a run", ["cancelled", "runs"]) == 1
    assert mentions("runs are cancelled", ["cancel", "run"]) == 2
    assert mentions("after a restart", ["crash"]) == 1


def test_the_own_name_is_no_topic_beside_another_word() -> None:
    assert content_words("What is Roadworthy?") == ["roadworthy"]
    assert content_words("Does Roadworthy support backups?") == ["backups"]


def test_a_negation_is_the_topic_when_nothing_else_is() -> None:
    assert content_words("What can Roadworthy not do?") == ["not"]
    assert content_words("What can't you do?") == ["not"]
    assert content_words("Why does the stream not start?") == ["stream", "start"]
