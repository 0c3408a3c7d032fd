"""Keys and the list of principals that ``millstream up`` makes for its own people."""

from pathlib import Path

import pytest

from agents.runtime.errors import ConfigurationError
from agents.runtime.signing import SigningKey
from ops.keys import PRINCIPALS_FILE, make_key, provide_keys


def test_what_people_have_written_into_the_list_stays(tmp_path: Path) -> None:
    listed, files = provide_keys(tmp_path, ["ann", "bob"])
    before = listed.read_text()
    assert provide_keys(tmp_path, ["ann", "bob"]) == (listed, files)
    assert listed.read_text() == before

    entry = make_key(tmp_path / "cleo.pem", "cleo", ["sre"]).partition("\n")[2]
    listed.write_text(before.replace("principals:\n", f"principals:\n  # on call\n{entry}"))
    provide_keys(tmp_path, ["ann", "bob", "dora"])
    assert "# on call" in listed.read_text()
    for name in ("ann", "bob", "cleo", "dora"):
        assert name in listed.read_text()


def test_a_key_that_was_made_anew_replaces_the_one_that_is_listed(tmp_path: Path) -> None:
    listed, files = provide_keys(tmp_path, ["ann"])
    before = str(SigningKey.read(files["ann"]).public)
    files["ann"].unlink()
    provide_keys(tmp_path, ["ann"])
    after = str(SigningKey.read(files["ann"]).public)
    assert before not in listed.read_text()
    assert after in listed.read_text()


@pytest.mark.parametrize("text", ["principals: [ann]\n", "- ann\n", "a: b: c\n"])
def test_a_list_that_is_none_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / PRINCIPALS_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match="is no list of principals"):
        provide_keys(tmp_path, ["ann"])
    assert (tmp_path / PRINCIPALS_FILE).read_text() == text
