"""From what was fetched or written to the answer: envelope, links, headers, and references rewritten to this gateway. The EHR never shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gateway.adapters.ehr.base import Ehr, EhrReply
from gateway.fhir.bundle import searchset
from gateway.fhir.interaction import Interaction, Kind
from gateway.fhir.response import shown
from gateway.fhir.search import render as query
from gateway.proxy import kept, paging
from gateway.proxy.answer import Answer
from gateway.proxy.fetched import Fetched
from gateway.proxy.kept import Given
from gateway.proxy.rewrite import outbound
from gateway.proxy.writes import Written
from gateway.smart.principal import Principal


@dataclass(frozen=True, slots=True)
class View:
    """How one EHR looks from outside."""

    public_url: str
    ehr: Ehr
    seal: paging.Seal

    @property
    def base(self) -> str:
        """The gateway's FHIR base for this EHR."""
        return f"{self.public_url}/fhir/{self.ehr.name}"

    def rewrite(self, raw: bytes) -> bytes:
        """A resource with the EHR's own addresses replaced by ours, where they are references."""
        return outbound(raw, self.ehr.base_url, self.base, self.ehr.aliases)


def read(view: View, principal: Principal, asked: Interaction, given: Given) -> Answer:
    """The answer to a read, vread or search."""
    fetched, headers = given.fetched, kept.headers(given)
    if asked.kind is Kind.SEARCH:
        return Answer(200, _searchset(view, principal, asked, fetched), tuple(headers), age=fetched.age)
    if fetched.etag:
        headers.append(("ETag", fetched.etag))
    if fetched.last_modified:
        headers.append(("Last-Modified", fetched.last_modified))
    if _unchanged(asked, fetched):
        return Answer(304, b"", tuple(headers), age=fetched.age)
    return Answer(200, view.rewrite(fetched.body), tuple(headers), age=fetched.age)


def _searchset(view: View, principal: Principal, asked: Interaction, fetched: Fetched) -> bytes:
    links = [("self", f"{view.base}/{asked.type}" + (f"?{query(asked.params)}" if asked.params else ""))]
    if fetched.link:
        links.append(("next", f"{view.base}/{asked.type}?_page={paging.make(view.seal, principal, asked, fetched.link)}"))
    entries = [(f"{view.base}/{entry.type}/{entry.id}", view.rewrite(entry.resource), entry.mode) for entry in fetched.entries]
    return searchset(entries, links=links, total=fetched.total)


def _unchanged(asked: Interaction, fetched: Fetched) -> bool:
    """If-None-Match first, else If-Modified-Since (RFC 9110 13.2.2). Both come after the caller was found to be allowed (ATK-F10)."""
    wanted = asked.conditions.if_none_match
    if wanted:
        tags = {tag.strip().removeprefix("W/") for tag in wanted.split(",")}
        return bool(fetched.etag) and (fetched.etag.removeprefix("W/") in tags or "*" in tags)
    since = asked.conditions.if_modified_since
    if not since or not fetched.last_modified:
        return False
    try:
        return parsedate_to_datetime(fetched.last_modified) <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        return False


def written(view: View, asked: Interaction, done: Written, *, may_read: bool) -> Answer:
    """The answer to a create, update, patch or delete. FHIR R4 http.html 3.1.0.1.8 says what Prefer asks for; the default is the representation."""
    if asked.kind is Kind.DELETE:
        return Answer(200, _remark("Deleted.")) if asked.prefer.return_ == "OperationOutcome" else Answer(204)
    headers = [("Location", f"{view.base}/{done.location}")]
    if done.etag:
        headers.append(("ETag", done.etag))
    if done.last_modified:
        headers.append(("Last-Modified", done.last_modified))
    body = b""
    if asked.prefer.return_ == "OperationOutcome":
        body = _remark("Stored.")
    elif asked.prefer.return_ != "minimal" and may_read and done.body:
        body = view.rewrite(done.body)
        headers.append(("Content-Location", f"{view.base}/{done.location}"))
    return Answer(done.status, body, tuple(headers), location=done.location)


def _remark(text: str) -> bytes:
    issue = {"severity": "information", "code": "informational", "details": {"text": text}}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


def bundle(view: View, reply: EhrReply) -> tuple[Answer, str]:
    """The answer to a transaction or batch of a system; and the EHR's own words in it, for the event log."""
    found = shown(reply.body, bases=(view.ehr.base_url, *view.ehr.aliases))
    return Answer(200, view.rewrite(found.body)), found.hidden
