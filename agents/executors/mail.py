"""One e-mail, by SMTP (RFC 5321), and what each way of failing means.

Until the content is on its way nobody gets anything, so failures before are ``NotSentError``, or
``PermanentError`` where the server refuses for good. One recipient that is refused stops the
message for all. After the content only the server's answer says whether it took the message.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from typing import Final

import aiosmtplib

from agents.runtime.catalogue import SmtpConnection
from agents.runtime.context import Services
from agents.runtime.errors import (
    NotSentError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from agents.runtime.running import without_effect

_PERMANENT: Final = 500
_TOO_FAR: Final = (aiosmtplib.SMTPException, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Mail:
    """What to send."""

    to: Sequence[str]
    subject: str
    text: str
    key: str
    """Becomes the Message-ID, by which mail systems recognise a message that comes twice."""
    date: datetime

    def message(self, sender: str) -> EmailMessage:
        """The message with its headers.

        Raises:
            PermanentError: A text cannot stand in it, such as a subject of two lines.
        """
        message = EmailMessage(policy=SMTP_POLICY)
        try:
            message["From"] = sender
            message["To"] = ", ".join(self.to)
            message["Subject"] = self.subject
            message["Date"] = format_datetime(self.date)
            message["Message-ID"] = f"<{self.key}@millstream.invalid>"
            message.set_content(self.text)
            message.as_bytes()
        except (ValueError, IndexError, MessageError) as error:
            raise PermanentError(f"it is no e-mail: {error}", code="invalid_parameters") from error
        return message


async def send_mail(
    mail: Mail, declared: SmtpConnection, services: Services, *, seconds: float
) -> None:
    """Send an e-mail; each has a connection of its own.

    Args:
        mail: What to send.
        declared: The mail server.
        services: For the secrets that it names.
        seconds: How long it may take to get as far as the content, and then to be answered.

    Raises:
        NotSentError: It was not taken, for a reason that may pass.
        TransientError: The server refused the content for now.
        PermanentError: The server, or what was to be sent, cannot be right.
        OutcomeUnknownError: The content was sent, and there was no answer.
    """
    sender = await services.fill_in(declared.sender)
    message = mail.message(sender)
    host = await services.fill_in(declared.host)
    server = f"mail server {host}:{declared.port}"
    client = aiosmtplib.SMTP(
        hostname=host,
        port=declared.port,
        timeout=seconds,
        use_tls=declared.security == "tls",
        start_tls=declared.security == "starttls",
        tls_context=None if declared.security == "none" else ssl.create_default_context(),
    )
    try:
        try:
            with without_effect():
                async with asyncio.timeout(seconds):
                    await client.connect()
                    await _introduce(client, declared, services)
                    await client.mail(message["From"].addresses[0].addr_spec)
                    for recipient in mail.to:
                        await client.rcpt(recipient)
        except aiosmtplib.SMTPResponseException as error:
            reason = f"{server} refused it: {error.code} {error.message}"
            if error.code >= _PERMANENT:
                raise PermanentError(reason, code="refused") from error
            raise NotSentError(reason) from error
        except _TOO_FAR as error:
            raise NotSentError(f"{server}: {type(error).__name__}: {error}") from error
        try:
            await client.data(message.as_bytes())
        except aiosmtplib.SMTPResponseException as error:
            reason = f"{server} refused the content: {error.code} {error.message}"
            if error.code >= _PERMANENT:
                raise PermanentError(reason, code="refused") from error
            raise TransientError(reason) from error
        except _TOO_FAR as error:
            raise OutcomeUnknownError(
                f"{server} said nothing after the content ({type(error).__name__}: {error})"
            ) from error
        with contextlib.suppress(*_TOO_FAR):  # it has been taken; a farewell changes nothing
            await client.quit()
    finally:
        client.close()


async def _introduce(client: aiosmtplib.SMTP, declared: SmtpConnection, services: Services) -> None:
    if declared.username is not None and declared.password is not None:
        await client.login(
            await services.fill_in(declared.username), await services.fill_in(declared.password)
        )
