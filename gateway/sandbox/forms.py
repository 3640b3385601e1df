"""Fill in and send the forms of an HTML page as a browser without JavaScript does. For the walk through the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx


@dataclass(slots=True)
class Form:
    """A form as it stands: its address, and the values that it would send when nothing is touched."""

    action: str
    values: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    choices: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # of radio buttons and selects
    buttons: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def filled(self, **given: str) -> dict[str, list[str]]:
        """The fields to send; those given replace what stands there. Of a choice that nobody made, the first that says something."""
        found: dict[str, list[str]] = {}
        for name, value in self.values:
            found.setdefault(name, []).append(value)
        for name, offered in self.choices.items():
            found.setdefault(name, [one for one in offered if one][:1])
        return found | {name: [value] for name, value in given.items()}


class _Forms(HTMLParser):
    """Collects the forms of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._open: Form | None = None
        self._select = ""
        self._text: list[str] | None = None
        self._name = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = Form(has.get("action", ""))
            self.found.append(self._open)
        elif self._open is not None:
            self._field(self._open, tag, has)

    def _field(self, form: Form, tag: str, has: dict[str, str]) -> None:
        name, value = has.get("name", ""), has.get("value", "")
        match tag, has.get("type", "text"):
            case "input", "radio":
                form.choices.setdefault(name, []).append(value)
                if "checked" in has:
                    form.values.append((name, value))
            case "input", "checkbox":
                if "checked" in has:
                    form.values.append((name, value or "on"))
            case "input", kind if kind not in ("submit", "button"):
                form.values.append((name, value))
            case "button", _ if name:
                form.buttons.append((name, value))
            case "select", _:
                self._select = name
            case "option", _ if self._select:
                form.choices.setdefault(self._select, []).append(value)
                if "selected" in has:
                    form.values.append((self._select, value))
            case "textarea", _:
                self._name, self._text = name, []
            case _:
                pass

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None
        elif tag == "select":
            self._select = ""
        elif tag == "textarea" and self._open is not None and self._text is not None:
            self._open.values.append((self._name, "".join(self._text)))
            self._text = None


def forms(html: str) -> list[Form]:
    """All forms of a page, in order."""
    parser = _Forms()
    parser.feed(html)
    return parser.found


def send(client: httpx.Client, page: httpx.Response, path: str, **given: str) -> httpx.Response:
    """Send the form of this page that goes to `path`, with these fields filled in. Raises LookupError when there is none."""
    form = next((one for one in forms(page.text) if one.action.partition("?")[0].endswith(path)), None)
    if form is None:
        raise LookupError(f"the page has no form that goes to {path}")
    return client.post(str(page.url.join(form.action)), data=form.filled(**given), headers={"Origin": str(page.url.join("/")).rstrip("/")})
