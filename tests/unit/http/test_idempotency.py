from roadworthy.http.idempotency import record_of


def test_without_a_key_there_is_no_record() -> None:
    assert record_of(None, {"message": "hi"}) is None


def test_the_same_request_in_another_order_is_the_same_request() -> None:
    assert record_of("k", {"a": 1, "b": 2}) == record_of("k", {"b": 2, "a": 1})


def test_another_request_is_told_apart() -> None:
    one, other = record_of("k", {"message": "hi"}), record_of("k", {"message": "ho"})
    assert one is not None
    assert other is not None
    assert one.key == other.key
    assert one.body_hash != other.body_hash
