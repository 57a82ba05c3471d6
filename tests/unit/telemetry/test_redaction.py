import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.telemetry import redaction as redaction_module
from roadworthy.telemetry.redaction import Redaction, mask_texts, texts_in

KEY = "rw_live_" + "0aZ_-" * 10


SHAPES = [
    (f"key {KEY} refused", KEY),
    ("Anthropic said: invalid sk-ant-api03-AbC_d-123", "sk-ant-api03-AbC_d-123"),
    ("openai sk-proj-abcdefgh12345", "sk-proj-abcdefgh12345"),
    ("tavily tvly-dev-abc123", "tvly-dev-abc123"),
    ("headers: {'Authorization': 'Bearer abc.def.ghi'}", "abc.def.ghi"),
    ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ("x-api-key: 1234abcd", "1234abcd"),
    ("api_key='hushhush'", "hushhush"),
    ("GOOGLE_API_KEY=hushhush", "hushhush"),
    ("{'SERVICE_PASSWORD': 'hushhush'}", "hushhush"),
    ("client_secret=hushhush&access_token=hush", "hush"),
    ("key AIzaSyA-0123456789_abcdefghijklmnopqrs", "AIzaSyA-0123456789_abcdefghijklmnopqrs"),
    ("AIzaSyA0123456789abcdefghijklmnopqrs", "AIzaSyA0123456789abcdefghijklmnopqrs"),
    ("GET https://models.example/v1?alt=sse&key=hushhush failed", "hushhush"),
    ("GET https://models.example/v1?key=hushhush&alt=sse", "hushhush"),
    ("langsmith lsv2_pt_0123456789abcdef_0123", "0123456789abcdef"),
    ("postgresql://app:s3cr3t@db/roadworthy", "s3cr3t"),
    ("postgresql://app:s3c@r3t@db/roadworthy", "s3c"),
    ("postgresql://app:s3c@r3t@db/roadworthy", "r3t"),
    ("https://s3cr3t@example.org", "s3cr3t"),
    ("1 error: input_value='dear diary', input_type=str", "dear diary"),
]


@pytest.mark.parametrize(("text", "secret"), SHAPES)
def test_a_secret_is_known_by_its_shape(text: str, secret: str) -> None:
    assert secret not in Redaction().text(text)


@given(st.text(max_size=40), st.sampled_from([text for text, _ in SHAPES]), st.text(max_size=40))
def test_whatever_a_shape_matches_leaves_the_trace_that_is_looked_for_first(
    before: str, shape: str, after: str
) -> None:
    text = before + shape + after
    expected = text
    for pattern, replacement in redaction_module._SHAPES:  # pyright: ignore[reportPrivateUsage]
        expected = pattern.sub(replacement, expected)
    assert Redaction().text(text) == expected


def test_a_secret_setting_is_known_by_its_value() -> None:
    redaction = Redaction(["correct horse", "correct horse battery"])
    assert (
        redaction.text("said 'correct horse battery', then 'correct horse'") == "said '[redacted]', then '[redacted]'"
    )


def test_a_value_too_short_to_be_a_secret_masks_nothing() -> None:
    assert Redaction(["a", ""]).text("a plain text") == "a plain text"


def test_ordinary_text_stays_as_it_is() -> None:
    text = "GET /agent/runs/0af3 answered 404 in 3 ms; the bearer of bad news keyed it in: task-force, risk-free, "
    text += "monkey=1, max_tokens=5; write to ann@example.org about https://example.org/a?page=2"
    assert Redaction(["something else"]).text(text) == text


def test_secrets_are_found_in_names_and_at_any_depth() -> None:
    value = Redaction().value({"a": [{KEY: (KEY, 1, None, True)}]})
    assert KEY not in str(value)
    assert value == {"a": [{"[redacted]": ["[redacted]", 1, None, True]}]}


def test_what_is_no_json_becomes_its_redacted_text() -> None:
    assert Redaction().value(ValueError(f"bad {KEY}")) == "bad [redacted]"


def test_texts_of_a_request_are_masked_in_what_an_exception_says() -> None:
    payload = {"messages": [{"role": "user", "content": "my diagnosis\nis bad"}]}
    text = "ValueError: cannot read 'my diagnosis\\nis bad' (my diagnosis\nis bad)"
    masked = mask_texts(text, texts_in(payload))
    assert "diagnosis" not in masked
    assert masked.startswith("ValueError: cannot read '[message]'")


def test_a_short_text_blanks_out_nothing() -> None:
    assert mask_texts("KeyError: 'a'", ["a"]) == "KeyError: 'a'"
