"""Messages by e-mail: SMTP submission (RFC 6409) with STARTTLS (RFC 3207), or TLS from the start (RFC 8314)."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from gateway.errors import NotSent

_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where messages are handed over. `tls`: `starttls`, `implicit`, or `none`, which is for this machine itself alone."""

    host: str
    port: int
    sender: str
    tls: str = "starttls"
    username: str = ""
    password: str = field(default="", repr=False)
    context: ssl.SSLContext | None = None  # None: what the system trusts


class Smtp:
    """One connection for each message, in a thread: few are sent, and smtplib waits."""

    kinds: Collection[str] = ("email",)

    def __init__(self, server: MailServer) -> None:
        self._server = server

    async def send(self, to: str, subject: str, text: str) -> None:
        """Raises NotSent. The server's own words stay out of it: they may repeat the address."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._server.sender, to, subject
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=self._server.sender.rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers from machines
        message.set_content(text)
        try:
            await asyncio.to_thread(self._hand_over, message)
        except smtplib.SMTPResponseException as error:
            raise NotSent(f"the mail server refused it ({error.smtp_code})") from error
        except (smtplib.SMTPException, OSError) as error:  # ssl errors are OSErrors
            raise NotSent(f"the mail server could not be used ({type(error).__name__})") from error

    def _hand_over(self, message: EmailMessage) -> None:
        server = self._server
        context = server.context or ssl.create_default_context()
        with self._connected(context) as connection:
            if server.tls == "starttls":
                connection.starttls(context=context)  # raises where the server offers none: nothing goes out in the clear
            if server.username:
                connection.login(server.username, server.password)
            connection.send_message(message)

    def _connected(self, context: ssl.SSLContext) -> smtplib.SMTP:
        server = self._server
        if server.tls == "implicit":
            return smtplib.SMTP_SSL(server.host, server.port, timeout=_SECONDS, context=context)
        return smtplib.SMTP(server.host, server.port, timeout=_SECONDS)
