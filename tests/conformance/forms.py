"""A person who fills in HTML forms over HTTP, as a browser without JavaScript sends them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx

from tests.conformance.check import Missing, Skipped
from tests.conformance.config import SignIn
from tests.conformance.person import AS_OFFERED, Arrived, Asked, Choice

_ALLOWS = re.compile(r"allow|approve|authori[sz]e|accept|grant|yes|agree|continue|go on|next|sign in|log ?in|submit", re.IGNORECASE)
_REFUSES = re.compile(r"deny|den(y|ied)|not allow|don't|decline|reject|cancel|refuse|\bno\b", re.IGNORECASE)
_PAGES = 12  # more than any server asks


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
