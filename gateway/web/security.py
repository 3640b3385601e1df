"""The page "Sign-in and security": password, authenticator app, recovery codes, passkeys, address, and where a person is signed in.

What changes how she signs in needs a sign-in of the last five minutes: an open session on a shared computer is not enough to take an account over.
Each change gives the session a new id, and ends all others (ATK-O19).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from gateway.errors import NotDone
from gateway.smart.server.people import totp
from gateway.smart.server.people.factors import Enrolled, FactorLocked, Over, WrongCode
from gateway.smart.server.people.verification import Malformed, Sent, Verified
from gateway.smart.server.requests import given, parse_form
from gateway.web.doors import Doors
from gateway.web.edge import Endpoint, WebEdge, see
from gateway.web.people import Person, csrf_of
from gateway.web.qr import qr_code
from gateway.web.sent import sent_form

HERE = "/security"
_METHODS = {
    "password": "with your password",
    "totp": "with your password and your app",
    "recovery": "with your password and a recovery code",
    "passkey": "with a passkey",
    "provider": "with another service",
    "provider-anew": "with another service",
    "launcher": "by the launcher, as part of a trial",
}
_DONE = frozenset({"password", "app-off", "passkey", "passkey-off", "contact", "contact-off", "access"})

Act = Callable[[Request, Person, "dict[str, str]"], Awaitable[Response]]
"""A form of a person who signed in just now."""


def router(edge: WebEdge, doors: Doors) -> APIRouter:
    """Routes /security and below."""
    pages = _Security(edge, doors)
    table: dict[str, dict[str, Endpoint]] = {
        HERE: {"GET": pages.overview},
        f"{HERE}/everywhere": {"POST": pages.end_all},
        f"{HERE}/password": {"GET": pages.fresh_page(pages.password_page), "POST": pages.fresh(pages.password)},
        f"{HERE}/app": {"GET": pages.fresh_page(pages.app_page), "POST": pages.fresh(pages.begin_app)},
        f"{HERE}/app/confirm": {"POST": pages.fresh(pages.confirm_app)},
        f"{HERE}/app/remove": {"POST": pages.fresh(pages.remove_app)},
        f"{HERE}/codes": {"POST": pages.fresh(pages.codes)},
        f"{HERE}/access": {"GET": pages.fresh_page(pages.access_page), "POST": pages.fresh(pages.end_access)},
    }
    if doors.passkeys.offered:
        table[f"{HERE}/passkey"] = {"GET": pages.fresh_page(pages.passkey_page), "POST": pages.fresh(pages.add_passkey)}
        table[f"{HERE}/passkey/remove"] = {"POST": pages.fresh(pages.remove_passkey)}
    if doors.verification.kinds:
        table[f"{HERE}/contact"] = {"GET": pages.fresh_page(pages.contact_page), "POST": pages.fresh(pages.contact)}
        table[f"{HERE}/contact/code"] = {"GET": pages.fresh_page(pages.contact_code_page), "POST": pages.fresh(pages.contact_code)}
        table[f"{HERE}/contact/remove"] = {"POST": pages.fresh(pages.remove_contact)}
    return edge.routes(table)


class _Security:
    """One method for each page and each form."""

    def __init__(self, edge: WebEdge, doors: Doors) -> None:
        self._edge, self._doors = edge, doors

    def fresh(self, act: Act) -> Endpoint:
        """For forms: of this session, and only of somebody who signed in just now."""

        async def answer(request: Request) -> Response:
            form, people = await sent_form(request), self._edge.people
            person = await people.require(request)
            people.check_csrf(person, form.one)
            if _is_outside(person):
                return see(HERE)
            return await act(request, person, dict(form.one)) if self._is_fresh(person) else _confirm(HERE)

        return answer

    def fresh_page(self, page: Callable[[Request, Person], Awaitable[Response]]) -> Endpoint:
        """For pages with such a form: first the sign-in, then the form."""

        async def answer(request: Request) -> Response:
            person = await self._edge.people.require(request)
            if _is_outside(person):
                return see(HERE)
            return await page(request, person) if self._is_fresh(person) else _confirm(request.url.path)

        return answer

    async def overview(self, request: Request) -> Response:
        """What she has, and what she can change."""
        person = await self._edge.people.require(request)
        doors, account = self._doors, person.account
        done = given(parse_form(request.scope["query_string"]) or ()).get("done", "")
        sessions = [
            (one.hash == person.session_hash, _when(one.created_at), _METHODS.get(one.method, "")) for one in await doors.sessions.all_of(account)
        ]
        return self._render(
            "security.html",
            person,
            done=done if done in _DONE else "",
            outside=_is_outside(person),
            factors=await doors.factors.of(account),
            passkeys=doors.passkeys.offered,
            kinds=doors.verification.kinds,
            contact=_masked(await doors.verification.contact(account)),
            sessions=sessions,
            day=_day,
        )

    async def end_all(self, request: Request) -> Response:
        """Sign out everywhere. Nobody has to sign in anew to end something."""
        form, people = await sent_form(request), self._edge.people
        person = await people.require(request)
        people.check_csrf(person, form.one)
        await self._doors.sessions.end_all(person.visitor, self._edge.caller(request))
        response = see("/signout")
        people.forget_session(response)
        return response

    async def access_page(self, request: Request, person: Person) -> Response:
        """All that has access, and the button that ends it."""
        del request
        return self._render("security_access.html", person, standing=await self._doors.endings.of(person.account))

    async def end_access(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """End it, for who fears that somebody else got in."""
        del form
        secret = await self._doors.endings.end_all(person.visitor, self._edge.caller(request))
        await self._doors.verification.tell(person.account, "All apps, passkeys and the authenticator app were removed from your account.")
        return self._done("access", secret)

    # Password

    async def password_page(self, request: Request, person: Person) -> Response:
        """A new password."""
        del request
        return self._render("security_password.html", person, problem="")

    async def password(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """Change it."""
        try:
            secret = await self._doors.accounts.change_password(person.visitor, form.get("password", ""), self._edge.caller(request))
        except NotDone:
            return self._render("security_password.html", person, status=422, problem="password")
        await self._doors.verification.tell(person.account, "Your password was changed.")
        return self._done("password", secret)

    # Authenticator app

    async def begin_app(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """Make a secret."""
        del request, form
        return see(f"{HERE}/app" if await self._doors.factors.begin_app(person.account) else HERE)

    async def app_page(self, request: Request, person: Person) -> Response:
        """The secret as a picture and as text, and the field for the first code."""
        del request
        return await self._app(person)

    async def confirm_app(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """The first code: from now on the app counts. The recovery codes are on this answer and nowhere else."""
        enrolled = await self._doors.factors.confirm_app(person.visitor, form.get("code", ""), self._edge.caller(request))
        if enrolled is None:
            return await self._app(person, problem="wrong", status=403)
        await self._doors.verification.tell(person.account, "An authenticator app was added to your account.")
        return self._codes(person, enrolled, first=True)

    async def codes(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """New recovery codes instead of the old ones."""
        del form
        renewed = await self._doors.factors.renew_codes(person.visitor, self._edge.caller(request))
        if renewed is None:
            return see(HERE)
        await self._doors.verification.tell(person.account, "New recovery codes were made for your account. The old ones do not work any more.")
        return self._codes(person, renewed, first=False)

    async def remove_app(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """The password alone is enough again."""
        del form
        secret = await self._doors.factors.remove_app(person.visitor, self._edge.caller(request))
        if secret:
            await self._doors.verification.tell(person.account, "The authenticator app was removed from your account.")
        return self._done("app-off", secret)

    # Passkeys

    async def passkey_page(self, request: Request, person: Person) -> Response:
        """The page whose script asks the browser to make one."""
        del request
        return await self._passkey(person)

    async def add_passkey(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """Keep it."""
        secret = await self._doors.passkeys.add(person.visitor, form.get("answer", ""), form.get("name", ""), self._edge.caller(request))
        if not secret:
            return await self._passkey(person, problem="wrong", status=403)
        await self._doors.verification.tell(person.account, "A passkey was added to your account.")
        return self._done("passkey", secret)

    async def remove_passkey(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """Take it away."""
        secret = await self._doors.passkeys.remove(person.visitor, form.get("passkey", ""), self._edge.caller(request))
        if secret:
            await self._doors.verification.tell(person.account, "A passkey was removed from your account.")
        return self._done("passkey-off", secret)

    # Address

    async def contact_page(self, request: Request, person: Person) -> Response:
        """Where messages about the account may go."""
        del request
        return self._contact(person)

    async def contact(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """Send a code there."""
        sent = await self._doors.verification.begin_contact(person.visitor, form.get("contact", ""), self._edge.caller(request))
        match sent:
            case Sent():
                return see(f"{HERE}/contact/code")
            case Malformed():
                return self._contact(person, problem="malformed", status=422, entered=form.get("contact", "")[:254])
            case FactorLocked():
                return self._contact(person, problem="locked", status=429, wait=sent.retry_after)

    async def contact_code_page(self, request: Request, person: Person) -> Response:
        """The code from the message."""
        del request
        to = await self._doors.verification.waiting_contact(person.visitor)
        return self._render("security_contact_code.html", person, to=to, problem="") if to else see(f"{HERE}/contact")

    async def contact_code(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """From now on the address counts."""
        judged = await self._doors.verification.confirm_contact(person.visitor, form.get("code", ""), self._edge.caller(request))
        match judged:
            case Verified():
                return self._done("contact", judged.secret)
            case WrongCode():
                to = await self._doors.verification.waiting_contact(person.visitor)
                return self._render("security_contact_code.html", person, status=403, to=to, problem="wrong")
            case Over():
                return self._contact(person, problem="over", status=403)
            case FactorLocked():
                return self._contact(person, problem="locked", status=429, wait=judged.retry_after)

    async def remove_contact(self, request: Request, person: Person, form: dict[str, str]) -> Response:
        """Forget it."""
        del form
        return self._done("contact-off", await self._doors.verification.remove_contact(person.visitor, self._edge.caller(request)))

    # What they share

    def _is_fresh(self, person: Person) -> bool:
        return self._doors.sessions.is_fresh(person.visitor)

    def _done(self, what: str, secret: str) -> Response:
        """Back to the overview, with the session's new id. Without one nothing was there to change."""
        response = see(f"{HERE}?done={what}" if secret else HERE)
        if secret:
            self._edge.people.keep_session(response, secret)
        return response

    async def _app(self, person: Person, *, problem: str = "", status: int = 200) -> Response:
        secret = await self._doors.factors.waiting_secret(person.account)
        if secret is None:
            return see(HERE)
        text = totp.shown(secret)
        code = qr_code(totp.uri(secret, account=person.account.username, service=self._edge.pages.service))
        key = " ".join(text[at : at + 4] for at in range(0, len(text), 4))
        return self._render("security_app.html", person, status=status, problem=problem, qr=code, key=key)

    def _codes(self, person: Person, enrolled: Enrolled, *, first: bool) -> Response:
        response = self._render("security_codes.html", replace(person, csrf=csrf_of(enrolled.secret)), codes=enrolled.codes, enrolled=first)
        self._edge.people.keep_session(response, enrolled.secret)
        return response

    async def _passkey(self, person: Person, *, problem: str = "", status: int = 200) -> Response:
        options = await self._doors.passkeys.adding(person.visitor)
        return self._render("security_passkey.html", person, status=status, problem=problem, options=options, script="passkey.js")

    def _contact(self, person: Person, *, problem: str = "", status: int = 200, wait: int = 0, entered: str = "") -> Response:
        kinds, minutes = self._doors.verification.kinds, -(-wait // 60)
        response = self._render("security_contact.html", person, status=status, problem=problem, kinds=kinds, minutes=minutes, entered=entered)
        if wait:
            response.headers["Retry-After"] = str(wait)
        return response

    def _render(self, name: str, person: Person, **more: Any) -> Response:
        return self._edge.pages.render(name, person=person, **more)


def _is_outside(person: Person) -> bool:
    """Whether another service signs her in: what signs her in is changed there."""
    return not person.account.password_hash


def _confirm(next_path: str) -> Response:
    """The sign-in page, for somebody who is signed in: it leads back."""
    return see("/signin?" + urlencode({"again": "1", "next": next_path}))


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def _when(moment: datetime) -> str:
    return f"{_day(moment)}, {moment.astimezone(UTC):%H:%M} UTC"


def _masked(to: str) -> str:
    """An address as much of it as reminds her which one it is: the page may be seen over her shoulder."""
    name, at, host = to.partition("@")
    if at:
        return f"{name[:1]}…@{host}"
    return f"{to[:3]} … {to[-2:]}" if to else ""
