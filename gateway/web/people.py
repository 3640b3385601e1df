"""Who sits at the browser: the session cookie as a Person, and the guards of her forms."""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.audit import AuditRecord
from gateway.errors import Unavailable
from gateway.smart.record import Caller, Event
from gateway.smart.server.people.sessions import SessionOver, Sessions, Visitor
from gateway.smart.server.trial import COOKIE, STANDALONE_WINDOW
from gateway.store.base import now
from gateway.store.known_browsers import KEPT
from gateway.store.oauth_rows import Account, ListedPatient, digest
from gateway.web.pages import Pages

HOME = "/portal/"
_COOKIE_SECRET = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_LOCAL = re.compile(r"/(?!/)[!-\[\]-~]*", re.ASCII)  # visible ASCII without a backslash, which browsers take for a slash


@dataclass(frozen=True, slots=True)
class Person:
    """The signed-in person. `patient` is whose record is open ("" when staff has not chosen), `csrf` guards the forms of this session."""

    account: Account
    listed: tuple[ListedPatient, ...]
    session_hash: str
    patient: str
    csrf: str
    visitor: Visitor

    @property
    def patients(self) -> tuple[ListedPatient, ...]:
        """Whose record she may open, her own first."""
        return self.visitor.patients


class SignInNeeded(Exception):
    """Nobody is signed in. `next` is where the person wanted to go, a path of ours."""

    def __init__(self, next_path: str) -> None:
        super().__init__()
        self.next = next_path


class ForgedForm(Exception):
    """A form that did not come from a page of this session (ATK-O17)."""


class People:
    """Reads and sets the cookies: the session's, the browser's own, which is there before anybody signs in, and what makes a browser known."""

    def __init__(self, sessions: Sessions, *, public_url: str) -> None:
        self._sessions = sessions
        self._secure = public_url.startswith("https://")
        # The prefix makes browsers refuse a cookie that another host or plain http tries to plant (RFC 6265bis section 4.1.3).
        prefix = "__Host-" if self._secure else ""
        self.session_cookie, self.browser_cookie = f"{prefix}gw_session", f"{prefix}gw_browser"
        self.known_cookie = f"{prefix}gw_known"
        self.trial_cookie, self.latest_cookie = f"{prefix}{COOKIE}", f"{prefix}{COOKIE}_latest"

    async def current(self, request: Request) -> Person | None:
        """The person, or None."""
        secret = self.session_secret(request)
        visitor = await self._sessions.current(secret)
        if visitor is None:
            return None
        return Person(visitor.account, visitor.listed, visitor.session.hash, visitor.patient, csrf_of(secret), visitor)

    async def require(self, request: Request) -> Person:
        """The person. Raises SignInNeeded."""
        person = await self.current(request)
        if person is None:
            raise SignInNeeded(_wanted(request))
        return person

    def check_csrf(self, person: Person, form: Mapping[str, Any]) -> None:
        """Raises ForgedForm unless the form's `csrf` is the session's."""
        check(person.csrf, form)

    async def open_record(self, person: Person, patient: str) -> bool:
        """Show this patient's record from now on. False when it is not hers to open."""
        return await self._sessions.pick(person.visitor, patient)

    def session_secret(self, request: Request) -> str:
        """The session cookie, or ""."""
        return _cookie(request, self.session_cookie)

    def browser_secret(self, request: Request) -> str:
        """The browser's own cookie, or ""."""
        return _cookie(request, self.browser_cookie)

    def keep_session(self, response: Response, secret: str) -> None:
        """Hand the session to the browser, for as long as it runs."""
        self._set(response, self.session_cookie, secret)

    def keep_browser(self, response: Response, secret: str) -> None:
        """Hand the browser a secret of its own: what it begins here, only it goes on with."""
        self._set(response, self.browser_cookie, secret)

    def known_secret(self, request: Request) -> str:
        """By which a browser shows who signed in there before, or ""."""
        return _cookie(request, self.known_cookie)

    def keep_known(self, response: Response, secret: str) -> None:
        """This browser is known to somebody who signed in: strangers do not lock her out of it. It signs nobody in."""
        life = int(KEPT.total_seconds())
        response.set_cookie(self.known_cookie, secret, max_age=life, path="/", secure=self._secure, httponly=True, samesite="lax")

    def trial_id(self, request: Request) -> str:
        """The trial of the launcher that this browser is in, or ""."""
        return _cookie(request, self.trial_cookie)

    def keep_trial(self, response: Response, trial_id: str) -> None:
        """This browser is in a standalone trial: for its app alone, and for a few minutes.

        Only of one that this very request began: whoever knows the id sees what the app does.
        """
        life = STANDALONE_WINDOW
        response.set_cookie(self.trial_cookie, trial_id, max_age=life, path="/", secure=self._secure, httponly=True, samesite="lax")

    def latest_trial(self, request: Request) -> str:
        """The trial that this browser began last, of whatever kind, or ""."""
        return _cookie(request, self.latest_cookie)

    def keep_latest_trial(self, response: Response, trial_id: str) -> None:
        """For the way to its page. It says nothing to the rest of the server."""
        self._set(response, self.latest_cookie, trial_id)

    def forget_session(self, response: Response) -> None:
        """Take the session cookie back."""
        response.delete_cookie(self.session_cookie, path="/", secure=self._secure, httponly=True, samesite="lax")

    def _set(self, response: Response, name: str, secret: str) -> None:
        response.set_cookie(name, secret, path="/", secure=self._secure, httponly=True, samesite="lax")


def csrf_of(secret: str) -> str:
    """The token for forms: from the cookie's secret, so a page has it and nobody without the cookie can know it."""
    return digest(f"csrf:{secret}")


def check(expected: str, form: Mapping[str, Any]) -> None:
    """Raises ForgedForm unless the form's `csrf` is the expected one."""
    sent = form.get("csrf")
    if not isinstance(sent, str) or not expected or not hmac.compare_digest(sent.encode("utf-8", "replace"), expected.encode()):
        raise ForgedForm


def local_path(text: str) -> str:
    """A path of ours with its query, or the home page: no other host, no scheme, nothing that a browser reads as one (open redirect)."""
    decoded = unquote(text)
    plain = _LOCAL.fullmatch(text) and not decoded.startswith("//") and "\\" not in decoded and decoded.isprintable()
    return text if plain else HOME


def exception_handlers(
    pages: Pages, append: Callable[[AuditRecord], None], address: Callable[[Request], str]
) -> dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]]:
    """For the application: what a page does when nobody is signed in, or a form is forged.

    `append` puts a record where it survives SIGKILL, or raises Unavailable; `address`: the caller's.
    """

    async def sign_in(request: Request, needed: SignInNeeded) -> Response:
        del request
        return RedirectResponse(f"/signin?next={quote(needed.next, safe='')}", 303, {"Cache-Control": "no-store"})

    async def forged(request: Request, error: ForgedForm) -> Response:
        del error
        try:
            append(_forgery(request, address(request)))
        except Unavailable as unavailable:
            return pages.render("refused.html", status=503, title="That did not work", text=unavailable.message, reason=unavailable.reason)
        text = "Nothing was changed. Go back, load the page again, and send the form once more."
        return pages.render("refused.html", status=403, title="That form is out of date", text=text, reason="form-forged")

    async def over(request: Request, error: SessionOver) -> Response:
        del error
        return await sign_in(request, SignInNeeded(_wanted(request)))

    return {SignInNeeded: sign_in, SessionOver: over, ForgedForm: forged}


def _forgery(request: Request, address: str) -> AuditRecord:
    """On record is which form, by the pattern of its address: what stands in the address itself may name somebody."""
    caller, form = Caller(uuid.uuid4().hex, address, request.method), str(getattr(request.scope.get("route"), "path", ""))
    return Event(request.path_params.get("ehr", "")[:64], caller, now()).record("form", 403, reason="form-forged", detail=form)


def _cookie(request: Request, name: str) -> str:
    found = request.cookies.get(name, "")
    return found if _COOKIE_SECRET.fullmatch(found) else ""


def _wanted(request: Request) -> str:
    """Where to go on after sign-in: the page itself; after a form whose session ended, the home page."""
    if request.method not in ("GET", "HEAD"):
        return HOME
    query = request.scope.get("query_string", b"").decode("latin-1")
    path = (request.scope.get("raw_path") or b"/").decode("latin-1")
    return local_path(f"{path}?{query}" if query else path)
