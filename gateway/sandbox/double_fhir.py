"""The FHIR side of the EHR double: requests and answers as values, over the store. FHIR R4 http.html."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.fhir import splice
from gateway.fhir.names import RESOURCE_TYPES, is_id
from gateway.fhir.tables import SearchParam
from gateway.sandbox.double_search import Query, Unsupported, at, check, matches, members, sort_key
from gateway.sandbox.double_store import Store, Version

PAGE, LARGEST = 20, 1000


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived. `path` is relative to the base, without a leading slash; header names are lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def line(self) -> str:
        """`GET Patient?_id=a`."""
        return f"{self.method} {self.path}{'?' if self.query else ''}{self.query}"


@dataclass
class Lies:
    """What it says that is not true. Change it at any time."""

    swap: dict[str, str] = field(default_factory=dict[str, str])  # a read of the one gives the bytes of the other
    extra: list[str] = field(default_factory=list[str])  # `Type/id` mixed into every search as a match
    extra_includes: list[str] = field(default_factory=list[str])  # likewise as an include
    next_link: str = ""  # the next link of every search
    ignore_filters: bool = False  # every search gives everything of the type
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Refusal(Exception):
    """A request that is refused, with an OperationOutcome."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        issue = {"severity": "error", "code": code, "diagnostics": text}
        self.answer = Answer(status, json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode())


@dataclass
class Server:
    """What the double is made of, and how it behaves. See `Double`."""

    store: Store
    params: Mapping[str, Mapping[str, SearchParam]]
    software: str = "Double"
    bearer: str = ""
    client_ids: bool = True
    transactions: bool = True
    strict: bool = True
    lies: Lies = field(default_factory=Lies)
    pages: dict[str, tuple[list[tuple[bytes, str, str]], int]] = field(default_factory=dict[str, tuple[list[tuple[bytes, str, str]], int]])

    def answer(self, received: Received, base: str) -> Answer:
        """Answer one request, refusals too. `base` is the address at which it was asked."""
        try:
            if self.bearer and received.headers.get("authorization") != f"Bearer {self.bearer}":
                return Refusal(401, "login", "a token is needed").answer
            return _Request(self, received, base).answer()
        except Refusal as refusal:
            return refusal.answer
        except Unsupported as unsupported:
            return Refusal(400, "not-supported", str(unsupported)).answer
        except ValueError as error:
            return Refusal(400, "structure", f"malformed: {type(error).__name__}").answer


@dataclass(frozen=True, slots=True)
class _Request:
    """One request to the server."""

    server: Server
    received: Received
    base: str

    @property
    def store(self) -> Store:
        """What there is."""
        return self.server.store

    def answer(self) -> Answer:
        """FHIR R4 http.html, by method and path."""
        match self.received.method, self.received.path.split("/") if self.received.path else []:
            case "GET", ["metadata"]:
                return self._metadata()
            case "GET", []:
                return self._page(Query.parse(self.received.query).first("_page"))
            case "POST", []:
                return self._bundle()
            case method, [resource_type, *rest] if resource_type in RESOURCE_TYPES:
                return self._typed(method, resource_type, rest)
            case _:
                raise Refusal(404, "not-found", "no such path")

    def _typed(self, method: str, resource_type: str, rest: list[str]) -> Answer:
        match method, rest:
            case "GET", []:
                return self._search(resource_type, Query.parse(self.received.query))
            case "POST", ["_search"]:
                both = "&".join(part for part in (self.received.query, self.received.body.decode()) if part)
                return self._search(resource_type, Query.parse(both))
            case "POST", []:
                return self._written(*self._create(resource_type, self.received.body, self.received.headers.get("if-none-exist", "")))
            case "GET", [id_]:
                return self._read(self._stored(resource_type, id_))
            case "GET", [id_, "_history", number]:
                return self._read(self.store.version(f"{resource_type}/{id_}", number))
            case "PUT", [id_]:
                return self._written(*self._put(resource_type, id_))
            case "DELETE", [id_]:
                return self._delete(resource_type, id_)
            case _:
                raise Refusal(405, "not-supported", "not offered")

    # -- reading --

    def _stored(self, resource_type: str, id_: str) -> Version | None:
        ref = f"{resource_type}/{id_}"
        return self.store.current(self.server.lies.swap.get(ref, ref))

    def _read(self, version: Version | None) -> Answer:
        if version is None:
            raise Refusal(404, "not-found", "no such resource")
        if version.deleted:
            raise Refusal(410, "deleted", "it was deleted")
        if version.etag in self.received.headers.get("if-none-match", "").split(", "):
            return Answer(304, b"", _stamps(version))
        return Answer(200, version.raw, _stamps(version))

    def _metadata(self) -> Answer:
        interactions = [{"code": code} for code in ("read", "vread", "update", "delete", "create", "search-type")]
        resources = [
            {"type": name, "interaction": interactions, "versioning": "versioned", "updateCreate": self.server.client_ids}
            for name in sorted(RESOURCE_TYPES)
        ]
        statement = {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": "2026-01-01",
            "kind": "instance",
            "software": {"name": self.server.software},
            "fhirVersion": "4.0.1",
            "format": ["application/fhir+json"],
            "rest": [{"mode": "server", "resource": resources, "interaction": [{"code": code} for code in self._at_the_base()]}],
        }
        return Answer(200, json.dumps(statement).encode())

    def _at_the_base(self) -> tuple[str, ...]:
        return ("transaction", "batch") if self.server.transactions else ("batch",)

    # -- searching --

    def _search(self, resource_type: str, query: Query) -> Answer:
        params = self.server.params.get(resource_type, {})
        query = self._understood(query, params)
        found = [one for one in self.store.of_type(resource_type) if self._is_match(one, query, params)]
        for key in reversed(query.first("_sort").split(",") if query.first("_sort") else []):
            found.sort(key=lambda one, key=key: sort_key(one.resource, key.lstrip("-"), params), reverse=key.startswith("-"))
        if query.first("_summary") == "count" or query.first("_count") == "0":
            return self._searchset([], total=len(found), link="")
        return self._first_page(found, query)

    def _understood(self, query: Query, params: Any) -> Query:
        if self.server.strict:
            check(query, params)
            return query
        return Query(tuple(pair for pair in query.pairs if pair[0].startswith("_") or pair[0] in params))

    def _is_match(self, version: Version, query: Query, params: Any) -> bool:
        return self.server.lies.ignore_filters or matches(version.resource, query, params, self.base)

    def _first_page(self, found: list[Version], query: Query) -> Answer:
        size = min(int(query.first("_count", str(PAGE))), LARGEST)
        pages = [found[start : start + size] for start in range(0, len(found), size)] or [[]]
        entries = [(one.raw, one.ref, "match") for one in pages[0]]
        entries += [(one.raw, one.ref, "include") for one in self._included(pages[0], query)]
        entries += self._lied()
        rest = [(one.raw, one.ref, "match") for page in pages[1:] for one in page]
        # Like HAPI, it counts everything only when there is no other page, or when it is asked to.
        total = len(found) if not rest or query.first("_total") == "accurate" else None
        return self._searchset(entries, total=total, link=self._remember(rest, size))

    def _lied(self) -> list[tuple[bytes, str, str]]:
        lies = self.server.lies
        pairs = [(ref, "match") for ref in lies.extra] + [(ref, "include") for ref in lies.extra_includes]
        return [(one.raw, ref, mode) for ref, mode in pairs if (one := self.store.current(ref)) is not None]

    def _remember(self, rest: list[tuple[bytes, str, str]], size: int) -> str:
        """An opaque page link, on the base and without a type, as HAPI's are."""
        if not rest:
            return ""
        token = secrets.token_urlsafe(12)
        self.server.pages[token] = (rest, size)
        return f"{self.base}?_page={token}"

    def _page(self, token: str) -> Answer:
        if token not in self.server.pages:
            raise Refusal(410, "not-found", "this page is gone")
        rest, size = self.server.pages[token]
        return self._searchset(rest[:size], total=None, link=self._remember(rest[size:], size))

    def _searchset(self, entries: Iterable[tuple[bytes, str, str]], *, total: int | None, link: str) -> Answer:
        lies = self.server.lies
        total = total if lies.total is None else lies.total
        link = lies.next_link or link
        links = [{"relation": "self", "url": f"{self.base}/{self.received.path}"}] + ([{"relation": "next", "url": link}] if link else [])
        head = {"resourceType": "Bundle", "id": secrets.token_hex(8), "type": "searchset", "link": links} | (
            {} if total is None else {"total": total}
        )
        pasted = b",".join(
            b'{"fullUrl":"%s","resource":%s,"search":{"mode":"%s"}}' % (f"{self.base}/{ref}".encode(), raw, mode.encode())
            for raw, ref, mode in entries
        )
        return Answer(200, json.dumps(head).encode()[:-1] + (b', "entry": [' + pasted + b"]}" if pasted else b"}"))

    def _included(self, page: list[Version], query: Query) -> list[Version]:
        found: dict[str, Version] = {}
        for _, value in query.values("_include"):
            for version in page:
                found |= {one.ref: one for one in self._targets(version, *_include(value))}
        for _, value in query.values("_revinclude"):
            source, name, _ = _include(value)
            refs = {one.ref for one in page}
            for version in self.store.of_type(source):
                if refs & set(self._references(version, name)):
                    found[version.ref] = version
        shown = {one.ref for one in page}
        return [one for ref, one in found.items() if ref not in shown]

    def _targets(self, version: Version, source: str, name: str, target: str) -> Iterable[Version]:
        if version.type != source:
            return
        for ref in self._references(version, name):
            stored = self.store.current(ref)
            if stored is not None and not stored.deleted and target in ("", stored.type):
                yield stored

    def _references(self, version: Version, name: str) -> Iterable[str]:
        param = self.server.params.get(version.type, {}).get(name)
        if param is None or param.type != "reference":
            raise Unsupported(f"cannot include {version.type}:{name}")
        for path in param.paths:
            for item in at(version.resource, path):
                reference = members(item).get("reference")
                if isinstance(reference, str):
                    yield reference.removeprefix(f"{self.base}/").split("/_history/")[0]

    # -- writing --

    def _create(self, resource_type: str, raw: bytes, if_none_exist: str, id_: str = "") -> tuple[Version, int]:
        _checked(raw, resource_type)
        if if_none_exist:
            params = self.server.params.get(resource_type, {})
            query = Query.parse(if_none_exist)
            check(query, params)
            found = [one for one in self.store.of_type(resource_type) if matches(one.resource, query, params, self.base)]
            if len(found) > 1:
                raise Refusal(412, "multiple-matches", "the condition matches several")
            if found:
                return found[0], 200
        return self.store.put(resource_type, id_ or self.store.new_id(), raw), 201

    def _put(self, resource_type: str, id_: str) -> tuple[Version, int]:
        """If-None-Match: what is there now is none of these (RFC 9110 13.1.2); a deletion is nothing that is there."""
        current = self.store.current(f"{resource_type}/{id_}")
        unwanted = self.received.headers.get("if-none-match", "").split(", ")
        if current is not None and not current.deleted and {"*", current.etag} & set(unwanted):
            raise Refusal(412, "conflict", "there is such a resource already")
        return self._update(resource_type, id_, self.received.body, self.received.headers.get("if-match", ""))

    def _update(self, resource_type: str, id_: str, raw: bytes, if_match: str) -> tuple[Version, int]:
        resource = _checked(raw, resource_type)
        if not is_id(id_) or resource.get("id") != id_:
            raise Refusal(400, "value", "the id of the body and of the URL differ")
        current = self.store.current(f"{resource_type}/{id_}")
        if if_match and (current is None or current.deleted or current.etag != if_match):
            raise Refusal(412, "conflict", "that is not the current version")
        if current is None and not self.server.client_ids:
            raise Refusal(405, "not-supported", "ids are the server's")
        return self.store.put(resource_type, id_, raw), 201 if current is None or current.deleted else 200

    def _delete(self, resource_type: str, id_: str) -> Answer:
        current = self.store.current(f"{resource_type}/{id_}")
        if_match = self.received.headers.get("if-match", "")
        if if_match and (current is None or current.deleted or current.etag != if_match):
            raise Refusal(412, "conflict", "that is not the current version")
        if current is not None and not current.deleted:
            self.store.delete(resource_type, id_)
        return Answer(204)

    def _written(self, version: Version, status: int) -> Answer:
        minimal = "return=minimal" in self.received.headers.get("prefer", "")
        location = f"{self.base}/{version.ref}/_history/{version.number}"
        return Answer(status, b"" if minimal else version.raw, {**_stamps(version), "location": location})

    # -- bundles --

    def _bundle(self) -> Answer:
        bundle = _checked(self.received.body, "Bundle")
        if bundle.get("type") not in ("transaction", "batch"):
            raise Refusal(400, "value", "only a transaction or a batch")
        if bundle["type"] not in self._at_the_base():
            raise Refusal(405, "not-supported", "transactions are not offered")
        entries = _entries(self.received.body)
        if bundle["type"] == "batch":
            return _bundle_response("batch", [self._in_batch(*entry) for entry in entries])
        return _bundle_response("transaction", self._transaction(entries))

    def _transaction(self, entries: list[tuple[bytes, dict[str, Any], str]]) -> list[dict[str, Any]]:
        """All or nothing, in the order of http.html 3.1.0.11.2; references to fullUrls become those of what was made."""
        before = self.store.snapshot()
        try:
            ids = self._planned(entries)
            order = sorted(range(len(entries)), key=lambda index: ("DELETE", "POST", "PUT", "GET").index(entries[index][1]["method"]))
            done = {index: self._in_transaction(*entries[index], ids) for index in order}
        except (Refusal, Unsupported, ValueError, KeyError):
            self.store.restore(before)
            raise
        return [done[index] for index in range(len(entries))]

    def _planned(self, entries: list[tuple[bytes, dict[str, Any], str]]) -> dict[str, str]:
        """The `Type/id`, by fullUrl, of everything that the Bundle makes."""
        ids: dict[str, str] = {}
        for _, request, full_url in entries:
            if request["method"] == "POST" and full_url:
                ids[full_url] = f"{request['url']}/{self.store.new_id()}"
            elif request["method"] == "PUT" and full_url:
                ids[full_url] = request["url"]
        return ids

    def _in_transaction(self, raw: bytes, request: dict[str, Any], full_url: str, ids: dict[str, str]) -> dict[str, Any]:
        if raw:
            raw = splice.apply(raw, splice.referring(raw, splice.root(raw), ids))
        resource_type, _, id_ = str(request["url"]).partition("/")
        match request["method"]:
            case "POST":
                planned = ids.get(full_url, "").partition("/")[2]
                version, status = self._create(resource_type, raw, request.get("ifNoneExist", ""), planned)
            case "PUT":
                version, status = self._update(resource_type, id_, raw, request.get("ifMatch", ""))
            case "DELETE":
                self._delete(resource_type, id_)
                return {"response": {"status": "204"}}
            case _:
                return _entry_of(_Request(self.server, Received("GET", *_path(request), {}, b""), self.base).answer())
        return {"response": _response(version, status)}

    def _in_batch(self, raw: bytes, request: dict[str, Any], _full_url: str) -> dict[str, Any]:
        headers = {"if-match": request.get("ifMatch", ""), "if-none-exist": request.get("ifNoneExist", "")}
        received = Received(request["method"], *_path(request), headers, raw)
        return _entry_of(self.server.answer(received, self.base))


def _stamps(version: Version) -> dict[str, str]:
    return {"etag": version.etag, "last-modified": version.last_modified}


def _checked(raw: bytes, resource_type: str) -> dict[str, Any]:
    resource = members(json.loads(raw))
    if resource.get("resourceType") != resource_type:
        raise Refusal(400, "structure", f"a {resource_type} was expected")
    return resource


def _include(value: str) -> tuple[str, str, str]:
    source, name, target = (*value.split(":"), "", "")[:3]
    return source, name, target


def _path(request: Mapping[str, Any]) -> tuple[str, str]:
    path, _, query = str(request["url"]).partition("?")
    return path, query


def _entries(raw: bytes) -> list[tuple[bytes, dict[str, Any], str]]:
    """(raw resource or b"", request, fullUrl) of each entry."""
    entries = splice.member(raw, splice.root(raw), "entry")
    found: list[tuple[bytes, dict[str, Any], str]] = []
    for entry in splice.items(raw, entries) if entries else ():
        parts = {name: raw[span.start : span.end] for name, span in splice.members(raw, entry)}
        found.append((parts.get("resource", b""), json.loads(parts["request"]), json.loads(parts.get("fullUrl", b'""'))))
    return found


def _response(version: Version, status: int) -> dict[str, Any]:
    return {
        "status": f"{status} {'Created' if status == 201 else 'OK'}",
        "location": f"{version.ref}/_history/{version.number}",
        "etag": version.etag,
        "lastModified": version.at.isoformat(timespec="milliseconds"),
    }


def _entry_of(answer: Answer) -> dict[str, Any]:
    """A single answer as an entry of a response Bundle."""
    response: dict[str, Any] = {"status": str(answer.status)}
    if location := answer.headers.get("location"):
        response |= {"location": location, "etag": answer.headers["etag"]}
    content = json.loads(answer.body) if answer.body else None
    if answer.status >= 400:
        return {"response": {**response, "outcome": content}}
    return {"response": response} | ({"resource": content} if content else {})


def _bundle_response(kind: str, entries: list[dict[str, Any]]) -> Answer:
    return Answer(200, json.dumps({"resourceType": "Bundle", "type": f"{kind}-response", "entry": entries}).encode())
