"""One frame of a stream: a line a field, whatever the text in it."""

import json

from roadworthy.http.sse import frame


def test_a_frame_has_no_line_break_that_any_client_could_see_in_its_data() -> None:
    text = "a\u2028b\u2029c\u0085d"
    sent = frame(json.dumps({"content": text}, ensure_ascii=False).encode(), event_id="1-1-1").decode()
    fields = sent.splitlines()
    assert fields[0] == "id: 1-1-1"
    assert json.loads(fields[1].removeprefix("data: ")) == {"content": text}
    assert fields[2:] == [""]
