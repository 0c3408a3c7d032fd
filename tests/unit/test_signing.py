import base64
import stat
import traceback
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.approvals import command, envelope

from agents.runtime.errors import ConfigurationError
from agents.runtime.signing import PublicKey, SigningKey, signed_bytes
from schemas import Command, envelope_type

HASH = "ab" * 32
KEY = SigningKey.generate()
SIGNED = KEY.sign(envelope(command("approve", "ann", HASH, reason="it is tuesday")))


def test_a_signature_is_over_the_documented_bytes() -> None:
    expected = (
        f'{{"command":{{"command_id":"{SIGNED.payload.command_id}","issued_by":"ann",'
        f'"kind":"approve","plan_hash":"{HASH}","reason":"it is tuesday"}},'
        f'"correlation_id":"{SIGNED.correlation_id}","lane":"",'
        f'"message_id":"{SIGNED.message_id}",'
        '"purpose":"millstream.command.v1","tenant":"default"}'
    )
    assert signed_bytes(SIGNED) == expected.encode()
    # Checked by the library itself, without our code.
    raw_key = base64.b64decode(str(KEY.public).removeprefix("ed25519:"))
    signature = base64.b64decode((SIGNED.payload.signature or "").removeprefix("ed25519:"))
    Ed25519PublicKey.from_public_bytes(raw_key).verify(signature, expected.encode())


def test_it_survives_the_way_over_the_topic() -> None:
    read = envelope_type(Command).model_validate_json(SIGNED.to_bytes())
    assert KEY.public.has_signed(read)


@pytest.mark.parametrize(
    "change",
    [
        {"correlation_id": UUID(int=9)},
        {"lane": "canary."},
        {"tenant": "acme"},
        {"message_id": UUID(int=9)},
        {"payload": {"plan_hash": "cd" * 32}},
        {"payload": {"plan_hash": None}},
        {"payload": {"kind": "reject"}},
        {"payload": {"issued_by": "bob"}},
        {"payload": {"reason": "it is wednesday"}},
        {"payload": {"step_id": "only"}},
        {"payload": {"command_id": UUID(int=9)}},
    ],
    ids=str,
)
def test_a_signature_is_worth_nothing_elsewhere(change: dict[str, Any]) -> None:
    assert KEY.public.has_signed(SIGNED)
    if "payload" in change:
        change = {"payload": SIGNED.payload.replace(**change["payload"])}
    assert not KEY.public.has_signed(SIGNED.replace(**change))


def test_the_signature_of_somebody_else_is_none() -> None:
    assert not SigningKey.generate().public.has_signed(SIGNED)
    assert not KEY.public.has_signed(envelope(command("approve", "ann", HASH)))


def test_a_key_is_kept_in_a_file_of_its_own_that_nobody_else_may_read(tmp_path: Path) -> None:
    file = tmp_path / "ann.pem"
    KEY.write(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(SigningKey.read(file).public) == str(KEY.public)
    with pytest.raises(ConfigurationError, match="not overwritten"):
        SigningKey.generate().write(file)
    assert str(PublicKey(str(KEY.public))) == str(KEY.public)


def test_no_error_says_what_is_in_a_key_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    other_kind = X25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for content in (b"hunter2", b"-----BEGIN PRIVATE KEY-----\nhunter2", other_kind):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError) as caught:
            SigningKey.read(file)
        said = "".join(traceback.format_exception(caught.value))
        for line in content.decode().splitlines():
            assert line not in said
    with pytest.raises(ConfigurationError, match="cannot be read"):
        SigningKey.read(tmp_path / "nothing")


def test_a_key_shows_nothing_of_itself(tmp_path: Path) -> None:
    KEY.write(tmp_path / "key")
    secret = (tmp_path / "key").read_text().splitlines()[1]
    assert secret not in repr(KEY) + str(KEY) + repr(vars(KEY))
