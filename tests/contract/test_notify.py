"""One short text to a person, by each way there is: SMTP against a real server with STARTTLS and with TLS, a file, the console."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from gateway import compose
from gateway.adapters.notify import Console, File, MailServer, Smtp
from gateway.config import load
from gateway.errors import NotSent
from gateway.smart.server.people.verification import NoNotifier

TEXT = "Your code for the clínica site is 12345678.\n\nIt works for 10 minutes.\n"
CA = trustme.CA()


@dataclass
class Postbox:
    """What a mail server took, and whether it came under TLS and from whom."""

    messages: list[EmailMessage] = field(default_factory=list)
    secure: list[bool] = field(default_factory=list)
    users: list[bytes] = field(default_factory=list)
    answer: str = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        del server
        found = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(found, EmailMessage)
        self.messages.append(found)
        self.secure.append(session.ssl is not None)
        return self.answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        del server, session, envelope, mechanism
        assert isinstance(data, LoginPassword)
        self.users.append(data.login)
        return AuthResult(success=data.password == b"right", handled=False)


def context(host: str = "localhost") -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(host).configure_cert(found)
    return found


def trusting() -> ssl.SSLContext:
    found = ssl.create_default_context()
    CA.configure_trust(found)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(postbox: Postbox, **more: Any) -> Iterator[int]:
    port = free_port()
    controller = Controller(postbox, hostname="127.0.0.1", port=port, **more)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def server(port: int, **more: Any) -> MailServer:
    return MailServer("localhost", port, "no-reply@clinic.example", context=trusting(), **more)


async def test_a_message_goes_out_under_starttls():
    """With what mail programs need, marked as written by a machine, and umlauts and quotes whole."""
    postbox = Postbox()
    with running(postbox, tls_context=context(), require_starttls=True, authenticator=postbox.authenticate) as port:
        await Smtp(server(port, username="gateway", password="right")).send("ann@example.com", "Your code", TEXT)
    (message,) = postbox.messages
    assert (message["To"], message["From"], message["Subject"]) == ("ann@example.com", "no-reply@clinic.example", "Your code")
    assert (message["Auto-Submitted"], postbox.secure, postbox.users) == ("auto-generated", [True], [b"gateway"])
    assert message["Message-ID"].endswith("@clinic.example>")
    assert message.get_content().replace("\r\n", "\n") == TEXT


async def test_nothing_goes_out_in_the_clear():
    """A server that offers no STARTTLS, or whose offer somebody cut out on the way, gets neither message nor password."""
    postbox = Postbox()
    with running(postbox, authenticator=postbox.authenticate, auth_require_tls=False) as port:
        with pytest.raises(NotSent):
            await Smtp(server(port, username="gateway", password="right")).send("ann@example.com", "Your code", TEXT)
        assert (postbox.messages, postbox.users) == ([], [])
        await Smtp(server(port, tls="none")).send("ann@example.com", "Your code", TEXT)
    assert postbox.secure == [False]


async def test_tls_from_the_start():
    """RFC 8314: smtps."""
    postbox = Postbox()
    with running(postbox, ssl_context=context(), server_hostname="localhost") as port:
        await Smtp(server(port, tls="implicit")).send("ann@example.com", "Your code", TEXT)
    assert len(postbox.messages) == 1


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_certificate_that_does_not_hold_gets_nothing(wrong):
    """Another name's, or of an authority that is not trusted."""
    postbox = Postbox()
    with running(postbox, tls_context=context("other.example" if wrong == "name" else "localhost"), require_starttls=True) as port:
        one = MailServer("localhost", port, "no-reply@clinic.example", context=trusting() if wrong == "name" else None)
        with pytest.raises(NotSent):
            await Smtp(one).send("ann@example.com", "Your code", TEXT)
    assert postbox.messages == []


async def test_a_refusal_does_not_repeat_the_address():
    """The server's words may name it; ours do not, for they stand in a log."""
    postbox = Postbox(answer="550 ann@example.com is not welcome")
    with running(postbox) as port, pytest.raises(NotSent) as raised:
        await Smtp(server(port, tls="none")).send("ann@example.com", "Your code", TEXT)
    assert raised.value.message == "the mail server refused it (550)"
    with running(postbox, tls_context=context(), authenticator=postbox.authenticate) as port, pytest.raises(NotSent) as raised:
        await Smtp(server(port, username="gateway", password="wrong")).send("ann@example.com", "Your code", TEXT)
    assert raised.value.message == "the mail server refused it (535)"
    with pytest.raises(NotSent, match="could not be used"):
        await Smtp(server(free_port())).send("ann@example.com", "Your code", TEXT)


async def test_a_mail_server_never_stalls_the_loop():
    """One that says nothing is waited for in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        waiting = asyncio.create_task(Smtp(server(silent.getsockname()[1], tls="none")).send("ann@example.com", "", TEXT))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        connection, _ = silent.accept()
        connection.close()
        with pytest.raises(NotSent):
            await waiting


async def test_a_file_has_one_message_a_line(tmp_path: Path):
    """For this user's eyes alone; many at once stay apart."""
    path = tmp_path / "messages.jsonl"
    await asyncio.gather(*(File(path).send(f"{number}@example.com", "Your code", TEXT) for number in range(20)))
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert sorted(one["to"] for one in found) == sorted(f"{number}@example.com" for number in range(20))
    assert {(one["subject"], one["text"]) for one in found} == {("Your code", TEXT)}
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotSent):
        await File(tmp_path / "nowhere" / "x").send("ann@example.com", "", "")


async def test_the_console_shows_it(capsys: pytest.CaptureFixture[str]):
    """On standard error: standard output is for programs."""
    await Console().send("ann@example.com", "Your code", TEXT)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "To: ann@example.com" in shown.err
    assert "12345678" in shown.err


def test_what_each_can_send_to():
    """SMTP knows no phones."""
    assert set(Smtp(server(1)).kinds) == {"email"}
    assert set(Console().kinds) == set(File(Path("x")).kinds) == {"email", "phone"}
    assert "right" not in repr(server(1, username="u", password="right"))


@pytest.mark.parametrize(
    ("url", "tls"),
    [
        ("smtp://mail.example:587", "starttls"),
        ("smtps://mail.example:465", "implicit"),
        ("smtp://127.0.0.1:25", "none"),
        ("smtp://localhost:25", "none"),
    ],
)
def test_what_the_settings_make(tmp_path: Path, url: str, tls: str):
    """STARTTLS is demanded of every mail server that is not this machine itself."""
    environ = {"GATEWAY_NOTIFY": "smtp", "GATEWAY_SMTP": url, "GATEWAY_SMTP_FROM": "no-reply@clinic.example"}
    made = compose._mail_server(load(environ=environ, cwd=tmp_path).settings)
    assert (made.tls, made.sender, made.port) == (tls, "no-reply@clinic.example", int(url.rpartition(":")[2]))


@pytest.mark.parametrize(("notify", "kind"), [("none", NoNotifier), ("console", Console), ("file", File)])
def test_none_is_the_default(tmp_path: Path, notify: str, kind: type):
    """Nothing is sent by a gateway of which nobody said how."""
    environ = {"GATEWAY_NOTIFY": notify, "GATEWAY_NOTIFY_FILE": "x"} if notify == "file" else {"GATEWAY_NOTIFY": notify}
    assert isinstance(compose._notifier(load(environ=environ, cwd=tmp_path).settings), kind)
    assert isinstance(compose._notifier(load(environ={}, cwd=tmp_path).settings), NoNotifier)
