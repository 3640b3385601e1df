"""The person in the middle: signs in, picks a patient, decides what an app may do.

`Forms` drives HTML forms by HTTP, for servers whose pages need no JavaScript. `Manual` asks a real person with a browser, as the published
suites do, and works with any server.
"""

from __future__ import annotations

import http.server
import re
import select
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx

from tests.conformance.check import Missing, Skipped
from tests.conformance.config import SignIn

_ALLOWS = re.compile(r"allow|approve|authori[sz]e|accept|grant|yes|agree|continue|go on|next|sign in|log ?in|submit", re.IGNORECASE)
_REFUSES = re.compile(r"deny|den(y|ied)|not allow|don't|decline|reject|cancel|refuse|\bno\b", re.IGNORECASE)
_PAGES = 12  # more than any server asks


@dataclass(frozen=True, slots=True)
class Choice:
    """What stays ticked: `ticked(value, offered)` for each box, where `offered` is whether the page ticked it. `words` tell a real person."""

    words: str
    ticked: Callable[[str, bool], bool]


AS_OFFERED = Choice("Allow all that the app asks for.", lambda _value, offered: offered)


@dataclass(frozen=True, slots=True)
class Asked:
    """An authorization request that a browser is sent with. `who`: "patient" or "clinician"."""

    endpoint: str
    fields: Mapping[str, str]
    method: str = "GET"
    who: str = "patient"
    choice: Choice = AS_OFFERED

    @property
    def url(self) -> str:
        """By GET; the endpoint may have a query of its own."""
        return self.endpoint + ("&" if "?" in self.endpoint else "?") + urlencode(self.fields)

    @property
    def redirect_uri(self) -> str:
        return self.fields["redirect_uri"]


@dataclass(frozen=True, slots=True)
class Arrived:
    """Where the browser ended: with these parameters at the app, or on a page of the server."""

    answer: Mapping[str, str]
    page: str = ""


class Person(Protocol):
    """Who answers what the server asks of people."""

    def authorize(self, asked: Asked) -> Arrived:
        """Go through an authorization to its end."""
        ...

    def started(self) -> Mapping[str, str]:
        """Start the app from the EHR; iss, launch and url that the browser came with. Raises Skipped when that cannot be done."""
        ...

    def take_back(self, management: str, client_id: str, done: Callable[[], bool]) -> None:
        """Take back what the app was allowed; `done` says whether it has no more access. Raises Skipped or Missing."""
        ...


# ---- by forms ----


@dataclass
class Form:
    """A form as it stands. Boxes: name, value, ticked. Radios: name, value. Buttons: name, value, what they say."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    boxes: list[tuple[str, str, bool]] = field(default_factory=list)
    radios: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str, str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # type of input -> its name
    text: str = ""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.said = ""
        self._open: Form | None = None
        self._button: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(has.get("action", ""), has.get("method", "get").upper())
            self.forms.append(self._open)
        elif self._open is not None and tag == "input":
            self._input(self._open, has)
        elif self._open is not None and tag == "button" and has.get("type", "submit") == "submit":
            self._button = [has.get("name", ""), has.get("value", ""), ""]

    def _input(self, form: Form, has: dict[str, str]) -> None:
        kind, name, value = has.get("type", "text").lower(), has.get("name", ""), has.get("value", "")
        match kind:
            case "checkbox":
                form.boxes.append((name, value or "on", "checked" in has))
            case "radio":
                form.radios.append((name, value or "on"))
            case "submit":
                form.buttons.append((name, value, value))
            case "button" | "reset" | "image" | "file":
                pass
            case _ if name:
                form.fields.append((name, value))
                form.names.setdefault(kind, name)

    def handle_data(self, data: str) -> None:
        if self._button is not None:
            self._button[2] += data
        if self._open is not None:
            self._open.text += data
        self.said += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None
        elif tag == "button" and self._button is not None and self._open is not None:
            name, value, said = self._button
            self._open.buttons.append((name, value, " ".join(said.split())))
            self._button = None


def forms_of(html: str) -> list[Form]:
    """The forms of a page, in order."""
    reader = _Reader()
    reader.feed(html)
    return reader.forms


class Forms:
    """Fills in forms over HTTP. Each person has a browser of her own, and stays signed in there."""

    def __init__(self, people: Mapping[str, SignIn], browser: Callable[[], httpx.Client]) -> None:
        self._people, self._new = people, browser
        self._browsers: dict[str, httpx.Client] = {}

    def authorize(self, asked: Asked) -> Arrived:
        """Follow every redirect and form of the server until the app's address, or a page without a way on."""
        who, browser = self._who(asked.who)
        page = browser.get(asked.url) if asked.method == "GET" else browser.post(asked.endpoint, data=dict(asked.fields))
        signed_in = False
        for _ in range(_PAGES):
            if page.is_redirect:
                target = urljoin(str(page.request.url), page.headers["location"])
                if _is_at(target, asked.redirect_uri):
                    return Arrived(dict(parse_qsl(urlsplit(target).query, keep_blank_values=True)))
                page = browser.get(target)
                continue
            form = _way_on(page)
            if form is None or (signed_in and "password" in form.names):
                break
            signed_in = signed_in or "password" in form.names
            page = _send(browser, page, form, _filled(form, who, asked.choice))
        return Arrived({}, f"{page.status_code} at {page.url.copy_with(query=None)}")

    def started(self) -> Mapping[str, str]:
        raise Skipped("EHR launch: no --launch-command was given")

    def take_back(self, management: str, client_id: str, done: Callable[[], bool]) -> None:
        """Press one button after the other until the right one was found, or there is none left: launches are made anew afterwards."""
        del client_id
        who, browser = self._who("patient")
        for _ in range(1000):
            page = browser.get(management, follow_redirects=True)
            form = next((one for one in forms_of(page.text) if _belongs(page, one, management) and one.buttons), None)
            if "password" in getattr(form or _way_on(page), "names", {}):
                form = _way_on(page)
            if form is None:
                return
            _send(browser, page, form, _filled(form, who, AS_OFFERED))
            if "password" not in form.names and done():
                return
        raise Missing(f"{management} has always one more app")

    def twin(self, browser: Callable[[], httpx.Client]) -> Forms:
        """The same people, signed in where these are, with other browsers."""
        made = Forms(self._people, browser)
        for name, old in self._browsers.items():
            made._browsers[name] = browser()
            made._browsers[name].cookies = old.cookies
        return made

    def close(self) -> None:
        for browser in self._browsers.values():
            browser.close()

    def _who(self, name: str) -> tuple[SignIn, httpx.Client]:
        if name not in self._people:
            raise Skipped(f"no user name and password of a {name}")
        if name not in self._browsers:
            self._browsers[name] = self._new()
        return self._people[name], self._browsers[name]


def _is_at(target: str, redirect_uri: str) -> bool:
    return target.partition("?")[0] == redirect_uri.partition("?")[0]


def _belongs(page: httpx.Response, form: Form, management: str) -> bool:
    return form.method == "POST" and urljoin(str(page.url), form.action).partition("?")[0].startswith(management.partition("?")[0])


def _way_on(page: httpx.Response) -> Form | None:
    """The form that goes on: the one with a password, else one that asks for something, else one whose button does not refuse."""
    found = [one for one in forms_of(page.text) if one.method == "POST"]
    with_password = [one for one in found if "password" in one.names]
    asking = [one for one in found if one.boxes or one.radios or len(one.buttons) > 1]
    plain = [one for one in found if any(not _REFUSES.search(" ".join(button)) for button in one.buttons)]
    return next(iter(with_password or asking or plain), None)


def _filled(form: Form, who: SignIn, choice: Choice) -> list[tuple[str, str]]:
    """What the form sends."""
    password = form.names.get("password")
    user = next((form.names[kind] for kind in ("text", "email") if kind in form.names), None) if password else None
    given = {user: who.username, password: who.password}
    pairs = [(name, given.get(name, value)) for name, value in form.fields]
    pairs += [(name, value) for name, value, offered in form.boxes if choice.ticked(value, offered)]
    for name in dict.fromkeys(name for name, _ in form.radios):
        values = [value for other, value in form.radios if other == name]
        pairs.append((name, who.patient if who.patient in values else values[0]))
    return pairs + _pressed(form.buttons)


def _pressed(buttons: Iterable[tuple[str, str, str]]) -> list[tuple[str, str]]:
    usable = [one for one in buttons if not _REFUSES.search(" ".join(one[1:]))]
    chosen = next((one for one in usable if _ALLOWS.search(" ".join(one[1:]))), next(iter(usable), None))
    return [chosen[:2]] if chosen and chosen[0] else []


def _send(browser: httpx.Client, page: httpx.Response, form: Form, pairs: list[tuple[str, str]]) -> httpx.Response:
    origin = f"{page.url.scheme}://{page.url.netloc.decode()}"
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin, "Referer": str(page.url)}
    return browser.post(urljoin(str(page.url), form.action), content=urlencode(pairs), headers=headers)


# ---- by a real person ----


class Manual:
    """Prints what is to be done, listens at the loopback redirect URI, and waits."""

    def __init__(self, redirect_uri: str, launch_uri: str, *, out: Callable[[str], None] = print, patience: float = 600.0) -> None:
        self._paths = {urlsplit(redirect_uri).path: "callback", urlsplit(launch_uri).path: "launch"}
        self._launch_uri, self._out, self._patience = launch_uri, out, patience
        self._pages: dict[str, str] = {}
        self._came = threading.Event()
        self._arrived: dict[str, Mapping[str, str]] = {}
        parts = urlsplit(redirect_uri)
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(f"{redirect_uri}: with --person manual the redirect URI is http on loopback, with a port")
        self._server = http.server.ThreadingHTTPServer((parts.hostname, parts.port or 80), self._handler())
        self.root = f"http://{parts.netloc}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def authorize(self, asked: Asked) -> Arrived:
        self._out(f"\n  Sign in as the {asked.who}. {asked.choice.words}")
        self._out(f"  Open {asked.url if asked.method == 'GET' else self._posting(asked)}")
        self._out("  If the server shows an error and the browser does not come back, press Enter here.")
        answer = self._wait("callback")
        return Arrived({}, "the person says: it ended on a page") if answer is None else Arrived(answer)

    def started(self) -> Mapping[str, str]:
        self._out(f"\n  In the EHR, start the app whose launch URL is {self._launch_uri}. If there is no way to do that, press Enter here.")
        if (found := self._wait("launch")) is None:
            raise Skipped("EHR launch: the person did not start one")
        return {**found, "url": f"{self._launch_uri}?{urlencode(found)}"}

    def take_back(self, management: str, client_id: str, done: Callable[[], bool]) -> None:
        del done
        self._out(f"\n  Take back all access of the app {client_id}{f' at {management}' if management else ''}, then press Enter here.")
        sys.stdin.readline()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _wait(self, what: str) -> Mapping[str, str] | None:
        """The parameters with which a browser comes; None when Enter is pressed instead. Raises Missing after `patience` seconds."""
        self._arrived.pop(what, None)
        for _ in range(int(self._patience / 0.2)):
            if self._came.wait(0.2) and what in self._arrived:
                self._came.clear()
                return self._arrived.pop(what)
            self._came.clear()
            if sys.stdin.isatty() and select.select([sys.stdin], [], [], 0)[0]:
                sys.stdin.readline()
                return None
        raise Missing(f"nobody came within {self._patience:.0f} s")

    def _posting(self, asked: Asked) -> str:
        """A page of ours whose button posts the request."""
        hidden = "".join(f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in asked.fields.items())
        path = f"/start/{len(self._pages)}"
        self._pages[path] = f'<form method="post" action="{escape(asked.endpoint)}">{hidden}<button>Go to the server</button></form>'
        return self.root + path

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        manual = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                what = manual._paths.get(parts.path)
                if what is not None:
                    manual._arrived[what] = dict(parse_qsl(parts.query, keep_blank_values=True))
                    manual._came.set()
                body = manual._pages.get(parts.path) or ("Done: go back to the terminal." if what else "")
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """The terminal belongs to the checks."""

        return Handler
