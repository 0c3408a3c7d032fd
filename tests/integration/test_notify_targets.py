"""The executor ``notify`` on a webhook of Slack's kind, and on real SMTP servers."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from support.clocks import RecordingClock
from support.steps import Rig, action

from agents.executors import notify
from ops.local import free_port
from schemas import StepResult

pytestmark = pytest.mark.integration

WORD = "mail-word-0123456789"
EMAIL = {"target": "email", "connection": "mail", "to": ["ops@example.com", "dev@example.com"]}


class Mailbox:
    """Keeps what it is sent, and behaves badly when it is told to."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.logins: list[bytes] = []
        self.answer = "250 OK"
        self.refused: dict[str, str] = {}
        self.hangs_up = False

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: Any, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        envelope.rcpt_tos.append(address)
        return self.refused.get(address, "250 OK")

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        if self.hangs_up:
            assert server.transport is not None
            server.transport.close()
        return self.answer

    def authenticate(
        self, _s: Any, _session: Any, _e: Any, _mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.password)
        return AuthResult(success=data.password == WORD.encode(), handled=False)


@contextmanager
def listening(mailbox: Mailbox, **options: Any) -> Iterator[int]:
    """The port of an SMTP server."""
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def rig(port: int, target: dict[str, Any] | None = None, **connection: Any) -> Rig:
    spec = action(
        "notify.send",
        executor="notify",
        effect="effect",
        parameters={"channel": "string", "text": "string"},
        settings={"default": target or EMAIL},
    )
    mail = {
        "kind": "smtp",
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "sender": "Millstream <bot@example.com>",
        **connection,
    }
    return Rig(
        (spec,),
        connections={"mail": mail},
        secrets={"mail_word": WORD},
        clock=RecordingClock(),
    )


async def send(rig: Rig, text: str = "all is well", channel: str = "#ops") -> StepResult:
    assignment = await rig.approved({"channel": channel, "text": text})
    async with rig.hosted(notify.send_message) as handler:
        result = await assignment.run(handler)
        assert await assignment.run(handler) == result
    return result


def ending(result: StepResult) -> tuple[str, str, bool]:
    assert result.failure is not None, result
    return result.status, result.failure.code, result.failure.retriable


# --- e-mail


async def test_an_email_reaches_all_its_recipients_once() -> None:
    mailbox = Mailbox()
    with listening(mailbox) as port:
        assert (await send(rig(port), "Grüße\n.\nzwei {x}")).status == "success"
    (envelope,) = mailbox.envelopes
    assert envelope.mail_from == "bot@example.com"
    assert envelope.rcpt_tos == EMAIL["to"]
    content = bytes(envelope.content or b"").decode()
    assert "Subject: #ops" in content
    assert "To: ops@example.com, dev@example.com" in content
    assert "@millstream.invalid>" in content
    assert "Gr" in content


async def test_the_subject_is_a_template() -> None:
    mailbox = Mailbox()
    with listening(mailbox) as port:
        await send(rig(port, {**EMAIL, "subject": "[{channel}] {text}"}))
    assert b"Subject: [#ops] all is well" in bytes(mailbox.envelopes[0].content or b"")


@pytest.mark.parametrize(
    "text", ["a\r\nBcc: evil@example.com", "a\nX: 1", "a\rX: 1", "a\r\n\r\nbody"]
)
async def test_a_parameter_adds_no_header(text: str) -> None:
    mailbox = Mailbox()
    with listening(mailbox) as port:
        wanted = rig(port, {**EMAIL, "subject": "{text}"})
        assignment = wanted.planned({"channel": "#ops", "text": text})
        await wanted.ledger.record_verdict(assignment.verdict("approved"))
        async with wanted.hosted(notify.send_message) as handler:
            assert ending(await assignment.run(handler))[:2] == ("failed", "invalid_parameters")
    assert mailbox.envelopes == []


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_a_password_is_a_secret() -> None:
    mailbox = Mailbox()
    options = {"authenticator": mailbox.authenticate, "auth_required": True}
    with listening(mailbox, auth_require_tls=False, **options) as port:
        login = {"username": "bot", "password": "${secret:mail_word}"}
        assert (await send(rig(port, **login))).status == "success"
        wrong = await send(rig(port, username="bot", password="wrong-word"))
        assert ending(wrong) == ("failed", "refused", False)
        assert ending(await send(rig(port))) == ("failed", "refused", False)
        missing = rig(port, username="bot", password="${secret:nowhere}")
        assert ending(await send(missing)) == ("failed", "configuration", False)
    assert set(mailbox.logins) == {WORD.encode(), b"wrong-word"}
    assert len(mailbox.envelopes) == 1


async def test_one_recipient_that_is_refused_stops_the_message_for_all() -> None:
    mailbox = Mailbox()
    mailbox.refused["dev@example.com"] = "550 no such user"
    with listening(mailbox) as port:
        result = await send(rig(port))
    assert ending(result) == ("failed", "refused", False)
    assert result.failure is not None
    assert "no such user" in result.failure.reason
    assert mailbox.envelopes == []


async def test_a_recipient_that_is_refused_for_now_is_tried_again() -> None:
    mailbox = Mailbox()
    mailbox.refused["ops@example.com"] = "450 greylisted, come back"
    with listening(mailbox) as port:
        assert ending(await send(rig(port))) == ("failed", "not_sent", True)
    assert mailbox.envelopes == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("452 disk full", ("failed", "transient", True)),
        ("554 looks like spam", ("failed", "refused", False)),
    ],
)
async def test_a_content_that_is_refused_was_not_sent(
    answer: str, expected: tuple[str, str, bool]
) -> None:
    mailbox = Mailbox()
    mailbox.answer = answer
    with listening(mailbox) as port:
        assert ending(await send(rig(port))) == expected


async def test_a_server_that_hangs_up_after_the_content_leaves_it_unknown() -> None:
    mailbox = Mailbox()
    mailbox.hangs_up = True
    with listening(mailbox) as port:
        assert ending(await send(rig(port))) == ("unknown", "effect_unknown", False)
    assert len(mailbox.envelopes) == 1


async def test_nobody_listening_means_not_sent() -> None:
    assert ending(await send(rig(free_port()))) == ("failed", "not_sent", True)


async def test_what_is_no_mail_server_means_not_sent() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await send(rig(port))
    assert result.status == "failed"
    assert ending(result)[1] in {"not_sent", "refused"}


async def test_no_password_goes_over_a_line_that_should_be_encrypted_and_is_not() -> None:
    mailbox = Mailbox()
    options = {"authenticator": mailbox.authenticate, "auth_require_tls": False}
    with listening(mailbox, **options) as port:
        wanted = rig(port, security="starttls", username="bot", password="${secret:mail_word}")
        assert ending(await send(wanted))[:2] == ("failed", "not_sent")
    assert (mailbox.logins, mailbox.envelopes) == ([], [])


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    mailbox = Mailbox()
    options = {"authenticator": mailbox.authenticate, "tls_context": self_signed(tmp_path)}
    with listening(mailbox, **options) as port:
        wanted = rig(port, security="starttls", username="bot", password="${secret:mail_word}")
        assert ending(await send(wanted))[:2] == ("failed", "not_sent")
    assert (mailbox.logins, mailbox.envelopes) == ([], [])


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "both.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


# --- webhooks


@asynccontextmanager
async def webhook(bodies: list[bytes]) -> AsyncIterator[str]:
    """The address of a server that keeps what is posted to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = (line for line in head.lower().split(b"\r\n") if b"content-length" in line)
        bodies.append(await reader.readexactly(int(length.split(b":")[1])))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/services/T0/B0/0123456789"


async def test_a_webhook_of_slacks_kind_gets_its_payload_and_mentions_nobody() -> None:
    bodies: list[bytes] = []
    async with webhook(bodies) as address:
        wanted = rig(1, {"target": "slack", "url": "${secret:mail_word}"})
        wanted.secrets = {"mail_word": address}
        await send(wanted, "<!channel> see <https://evil.example|our site> & more")
    (body,) = bodies
    assert json.loads(body) == {
        "text": "&lt;!channel&gt; see &lt;https://evil.example|our site&gt; &amp; more"
    }


async def test_the_address_of_a_webhook_is_in_no_result() -> None:
    address = f"http://127.0.0.1:{free_port()}/services/T0/B0/0123456789abcdef"
    wanted = rig(1, {"target": "webhook", "url": "${secret:mail_word}"})
    wanted.secrets = {"mail_word": address}
    result = await send(wanted)
    assert ending(result) == ("failed", "not_sent", True)
    assert "0123456789abcdef" not in result.model_dump_json()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"default": {**EMAIL, "connection": "post"}}, "no connection 'post' of kind smtp"),
        ({"channels": {"#a": {**EMAIL, "subject": "{typo}"}}}, "typo, but the action's"),
        ({"default": {**EMAIL, "to": []}}, "to"),
        ({"default": {**EMAIL, "to": ["a@b\r\nBcc: x@y"]}}, "an address such as"),
        ({"default": {**EMAIL, "to": ["a b@c.de"]}}, "an address such as"),
        ({"default": {"target": "slack", "url": "http://host/{text}"}}, "names no parameters"),
    ],
)
def test_wrong_settings_are_found_before_anything_starts(
    wrong: dict[str, Any], complaint: str
) -> None:
    context = {"parameters": ("channel", "text"), "connections": {"mail": "smtp"}}
    notify.NotifySettings.model_validate({"default": EMAIL}, context=context)
    with pytest.raises(ValidationError) as caught:
        notify.NotifySettings.model_validate(wrong, context=context)
    assert complaint in str(caught.value)
