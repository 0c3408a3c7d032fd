import json

import pytest

from agents.sink.values import headers_json


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"text", "text"),
        ("é".encode(), "é"),
        (b"", ""),
        (None, None),
        (b"\xff", {"base64": "/w=="}),
        (b"\x00\x05", {"base64": "AAU="}),
        (b"a\x00b", {"base64": "YQBi"}),
    ],
)
def test_a_headers_value_can_be_had_back_byte_for_byte(value: bytes | None, kept: object) -> None:
    assert json.loads(headers_json((("name", value),))) == [["name", kept]]
