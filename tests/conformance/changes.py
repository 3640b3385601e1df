"""What stands between the suite and a right server, to make a wrong one: changes of single requests and answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx

from tests.conformance.config import Config

SMART, METADATA, OPENID = "/.well-known/smart-configuration", "/metadata", "/.well-known/openid-configuration"
Fields = dict[str, str]
Ask = Callable[[httpx.Request], httpx.Request]
Answer = Callable[[httpx.Request, httpx.Response], httpx.Response]
When = Callable[[httpx.Request], bool]


def always(_request: httpx.Request) -> bool:
    """Whatever is asked."""
    return True


class Between(httpx.BaseTransport):
    """The network, with one thing changed on the way."""

    def __init__(self, network: httpx.BaseTransport, ask: Ask, answer: Answer) -> None:
        self._network, self._ask, self._answer = network, ask, answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = self._ask(request)
        response = self._network.handle_request(asked)
        response.read()
        response.request = asked
        return self._answer(request, response)

    def close(self) -> None:
        """The network is others' too."""


@dataclass(frozen=True)
class Mutant:
    """`kills`: the checks that fail. What is not given is left as it is."""

    name: str
    kills: tuple[str, ...]
    ask: Ask = lambda request: request
    answer: Answer = lambda _request, response: response
    config: Callable[[Config], Config] = lambda told: told
    says: str = ""  # a part of the reason, where the check fails anyway


def is_at(request: httpx.Request, *ends: str) -> bool:
    return request.url.path.endswith(ends)


def fields_of(request: httpx.Request) -> Fields:
    """The form that was posted, or the query."""
    text = request.content.decode() if request.method == "POST" else request.url.query.decode()
    return dict(parse_qsl(text, keep_blank_values=True))


def with_fields(request: httpx.Request, fields: Mapping[str, str]) -> httpx.Request:
    """The same request with other fields."""
    headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
    if request.method == "POST":
        return httpx.Request("POST", request.url, headers=headers, content=urlencode(fields), extensions=request.extensions)
    return httpx.Request("GET", request.url.copy_with(query=urlencode(fields).encode()), headers=headers, extensions=request.extensions)


def with_token(request: httpx.Request, token: str) -> httpx.Request:
    """The same request of somebody else."""
    headers = {**request.headers, "authorization": f"Bearer {token}"}
    return httpx.Request(request.method, request.url, headers=headers, content=request.content, extensions=request.extensions)


def answered(response: httpx.Response, content: Any = ..., *, status: int = 0, **headers: str | None) -> httpx.Response:
    """The same answer with other content (JSON values), status or headers. A header given as None is left out."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    gone = {"content-length", "content-encoding", "transfer-encoding", *given}
    kept = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in gone]
    kept += [(name, value) for name, value in given.items() if value is not None]
    body = response.content if content is ... else json.dumps(content).encode()
    return httpx.Response(status or response.status_code, headers=kept, content=body, request=response.request)


def edited(end: str, edit: Callable[[dict[str, Any]], object], when: When = always) -> Answer:
    """JSON of 200 at paths with this end, changed in place."""

    def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not is_at(request, end) or response.status_code != 200 or not when(request):
            return response
        found = response.json()
        edit(found)
        return answered(response, found)

    return answer


def replied(end: str, status: int, content: Any = ..., when: When = always, **headers: str | None) -> Answer:
    """Another status, content or header at paths with this end."""

    def answer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return answered(response, content, status=status, **headers) if is_at(request, end) and when(request) else response

    return answer


def is_grant(kind: str) -> When:
    return lambda request: fields_of(request).get("grant_type") == kind


CODE, REFRESH, SYSTEM = (is_grant(kind) for kind in ("authorization_code", "refresh_token", "client_credentials"))


def without(*names: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: [found.pop(name, None) for name in names]


def having(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update(members)


def scope(change: Callable[[list[str]], list[str]]) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update(scope=" ".join(change(found["scope"].split())))


def redirected(change: Callable[[Fields], Fields]) -> Answer:
    """The address with which the browser goes back to the app."""

    def answer(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        where = urlsplit(response.headers.get("location", ""))
        if where.port != 8765:
            return response
        query = urlencode(change(dict(parse_qsl(where.query))))
        return answered(response, location=urlunsplit(where._replace(query=query)))

    return answer


def asks(end: str, change: Callable[[Fields], Fields]) -> Ask:
    """Other fields at paths with this end."""
    return lambda request: with_fields(request, change(fields_of(request))) if is_at(request, end) else request
