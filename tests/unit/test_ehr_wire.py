"""How calls become requests, which URLs lie below a base, when the breaker opens, what profiles say: all pure."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.ehr import connect
from gateway.adapters.ehr.address import address
from gateway.adapters.ehr.auth import Basic, Bearer, NoAuth
from gateway.adapters.ehr.base import EhrCall
from gateway.adapters.ehr.breaker import LIMIT, LONGEST, PAUSE, Breaker
from gateway.adapters.ehr.offers import Told, offers, statement
from gateway.adapters.ehr.profile import PLATFORMS, load, make, of_software
from gateway.adapters.ehr.wire import http_request, query
from gateway.config import EhrSettings
from gateway.config.parse import Place, Wrong
from gateway.errors import ConfigError, UpstreamFault
from gateway.fhir.interaction import Kind, Param
from gateway.fhir.query import parse
from gateway.shipped import profiles

BASE = address("https://ehr.example/r4")


def sent(call: EhrCall, **given):
    return http_request(BASE, call, {}, **{"url_limit": 2000, **given})


# ---- requests ----


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (EhrCall(Kind.READ, "Patient", "a-1.b"), "GET https://ehr.example/r4/Patient/a-1.b"),
        (EhrCall(Kind.VREAD, "Patient", "a", "3"), "GET https://ehr.example/r4/Patient/a/_history/3"),
        (EhrCall(Kind.SEARCH, "Patient"), "GET https://ehr.example/r4/Patient"),
        (EhrCall(Kind.CREATE, "Patient", body=b"{}"), "POST https://ehr.example/r4/Patient"),
        (EhrCall(Kind.UPDATE, "Patient", "a", body=b"{}"), "PUT https://ehr.example/r4/Patient/a"),
        (EhrCall(Kind.DELETE, "Patient", "a"), "DELETE https://ehr.example/r4/Patient/a"),
        (
            EhrCall(Kind.DELETE, "Patient", "a", params=(Param("_lastUpdated", "", "2026-01-01T00:00:00.001+00:00"),)),
            "DELETE https://ehr.example/r4/Patient?_id=a&_lastUpdated=2026-01-01T00%3A00%3A00.001%2B00%3A00",
        ),
        (EhrCall(Kind.TRANSACTION, body=b"{}"), "POST https://ehr.example/r4"),
        (EhrCall(Kind.BATCH, body=b"{}"), "POST https://ehr.example/r4"),
        (EhrCall(Kind.CAPABILITIES), "GET https://ehr.example/r4/metadata"),
        (EhrCall(Kind.SEARCH, "Patient", page="Patient?page=2"), "GET https://ehr.example/r4/Patient?page=2"),
        (EhrCall(Kind.SEARCH, page="?_getpages=a&x=b|d"), "GET https://ehr.example/r4?_getpages=a&x=b%7Cd"),
    ],
)
def test_each_kind_has_its_method_and_path(call, line):
    """FHIR R4 http.html."""
    request = sent(call)
    assert f"{request.method} {request.url}" == line


def test_values_are_encoded_strictly():
    """Nothing but unreserved characters stands as it is; commas, bars and escapes are the value's own."""
    params = (Param("code", "not", "http://loinc.org|1-8,a\\,b"), Param("_has", "Observation:patient:code", "ä&=+ %41#"))
    assert query(params) == "code:not=http%3A%2F%2Floinc.org%7C1-8%2Ca%5C%2Cb&_has:Observation:patient:code=%C3%A4%26%3D%2B%20%2541%23"


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40).filter(lambda text: "%" not in text)


@given(st.lists(st.tuples(names, st.sampled_from(["", "not", "exact", "Patient.name"]), texts), min_size=1, max_size=5))
def test_what_is_sent_reads_back_as_what_was_parsed(pairs):
    """One encoding, one decoding, the same parameters (ATK-F24)."""
    params = tuple(Param(*pair) for pair in pairs)
    assert parse(query(params).encode()) == params


def test_a_long_search_goes_by_post():
    """The whole query in the body, nothing in the URL."""
    call = EhrCall(Kind.SEARCH, "Patient", params=(Param("_id", "", "x" * 50),))
    assert sent(call, url_limit=90).method == "GET"
    request = sent(call, url_limit=70)
    assert (request.method, request.url, request.body) == ("POST", "https://ehr.example/r4/Patient/_search", b"_id=" + b"x" * 50)
    assert dict(request.headers)["Content-Type"] == "application/x-www-form-urlencoded"


def test_conditions_go_as_headers():
    """If-Match and If-None-Match as they are, If-None-Exist as a query."""
    headers = dict(sent(EhrCall(Kind.CREATE, "Patient", body=b"{}", if_none_exist=(Param("identifier", "", "urn:a|b c"),))).headers)
    assert headers["If-None-Exist"] == "identifier=urn%3Aa%7Cb%20c"
    assert dict(sent(EhrCall(Kind.UPDATE, "Patient", "a", body=b"{}", if_match='W/"3"')).headers)["If-Match"] == 'W/"3"'
    assert dict(sent(EhrCall(Kind.UPDATE, "Patient", "a", body=b"{}", if_none_match="*")).headers)["If-None-Match"] == "*"


def test_reads_have_no_body_and_no_conditions():
    """What a caller put into a call of another kind does not leak into it."""
    request = sent(EhrCall(Kind.READ, "Patient", "a", body=b"x", if_match='W/"1"'))
    assert request.body is None
    assert "If-Match" not in dict(request.headers)


def test_a_read_may_ask_whether_it_is_still_the_same():
    """If-None-Match alone, and of a read alone."""
    for kind, expected in ((Kind.READ, 'W/"1"'), (Kind.VREAD, None), (Kind.SEARCH, None)):
        request = sent(EhrCall(kind, "Patient", "a", "1", if_none_match='W/"1"'))
        assert dict(request.headers).get("If-None-Match") == expected


@pytest.mark.parametrize(
    "call",
    [
        EhrCall(Kind.READ, "Patient", ""),
        EhrCall(Kind.READ, "Patient", "."),
        EhrCall(Kind.READ, "Patient", "a/b"),
        EhrCall(Kind.READ, "Patient", "a%2Fb"),
        EhrCall(Kind.READ, "Patient", "a?x"),
        EhrCall(Kind.READ, "Patient", "a" * 65),
        EhrCall(Kind.READ, "Patient", "a\n"),
        EhrCall(Kind.READ, "Pat", "a"),
        EhrCall(Kind.READ, "patient", "a"),
        EhrCall(Kind.READ, "", "a"),
        EhrCall(Kind.VREAD, "Patient", "a", ".."),
        EhrCall(Kind.SEARCH, ""),
        EhrCall(Kind.SEARCH, "$export"),
        *(EhrCall(Kind.SEARCH, page=page) for page in ("/x", "//evil.test/x", "a/../../x", "a//b", "a\\b", "%2e%2e/x", "a#b", "a b", "?")[:8]),
    ],
)
def test_what_could_change_a_path_is_refused(call):
    """Before anything is sent (ATK-F14)."""
    with pytest.raises(ValueError, match="this is no"):
        sent(call)


# ---- addresses ----


@pytest.mark.parametrize(
    ("url", "rest"),
    [
        ("https://ehr.example/r4/Patient/1", "Patient/1"),
        ("https://ehr.example/r4?page=2", "?page=2"),
        ("https://ehr.example/r4/Patient?name=a/../b", "Patient?name=a/../b"),
        ("HTTPS://EHR.example/r4/Patient/1", "Patient/1"),
        ("https://ehr.example:443/r4/Patient/1", "Patient/1"),
        ("https://ehr.example/r4/Patient/1/_history/2", "Patient/1/_history/2"),
        ("https://ehr.example/r4", None),
        ("https://ehr.example/r4/", None),
        ("https://ehr.example/r44/Patient/1", None),
        ("https://ehr.example/R4/Patient/1", None),
        ("https://ehr.example/Patient/1", None),
        ("http://ehr.example/r4/Patient/1", None),
        ("https://ehr.example:8443/r4/Patient/1", None),
        ("https://ehr.example.evil.test/r4/Patient/1", None),
        ("https://evil.test/https://ehr.example/r4/Patient/1", None),
        ("https://ehr.example@evil.test/r4/Patient/1", None),
        ("https://user@ehr.example/r4/Patient/1", None),
        ("https://ehr.example\\@evil.test/r4/Patient/1", None),
        ("https://ehr.example/r4/../admin", None),
        ("https://ehr.example/r4/Patient/..", None),
        ("https://ehr.example/r4/%2e%2e/admin", None),
        ("https://ehr.example/r4/a%2Fb", None),
        ("https://ehr.example/r4//evil.test", None),
        ("https://ehr.example/r4/Patient/1#x", None),
        ("https://ehr.example/r4/Patient/1\n", None),
        ("https://ehr.example/r4/Patient 1", None),
        ("https://ehr.example:port/r4/Patient/1", None),
        ("https://[::1/r4/Patient/1", None),
        ("//ehr.example/r4/Patient/1", None),
        ("Patient/1", None),
        ("", None),
    ],
)
def test_what_lies_below_the_base(url, rest):
    """Scheme, host, port and path prefix are equal, and no two readers could differ (ATK-F21)."""
    assert BASE.relative(url) == rest


@pytest.mark.parametrize(
    ("base", "url", "rest"),
    [
        ("http://up", "http://up/Patient/1", "Patient/1"),
        ("http://up", "http://up:80/Patient/1", "Patient/1"),
        ("http://up:80", "http://up/Patient/1", "Patient/1"),
        ("http://up", "http://up.evil.test/Patient/1", None),
        ("http://up", "http://up:8080/Patient/1", None),
        ("http://up/a/", "http://up/a/Patient/1", "Patient/1"),
        ("http://[::1]:8080/fhir", "http://[::1]:8080/fhir/Patient/1", "Patient/1"),
    ],
)
def test_other_bases(base, url, rest):
    """Without a path, with a port, with a trailing slash."""
    assert address(base).relative(url) == rest


@given(st.text(st.sampled_from("abP/.%2eE?=&:@\\# -"), max_size=12))
def test_a_page_leads_nowhere_else(rest):
    """Whatever passes `relative` gives a URL below the base again, and the same rest."""
    found = BASE.relative(f"https://ehr.example/r4/{rest}")
    if found is not None:
        url = BASE.page(found)
        assert url.startswith("https://ehr.example/r4")
        assert BASE.relative(url) is not None


@pytest.mark.parametrize(
    "wrong", ["", "ehr.example/r4", "ftp://ehr.example", "https://", "https://u:p@ehr.example/r4", "https://ehr/r4?x=1", "https://e h/"]
)
def test_what_is_no_base(wrong):
    """Said with the remedy, and without a password that stood in it."""
    with pytest.raises(ConfigError) as caught:
        address(wrong)
    assert "https://ehr.example/r4" in caught.value.fix
    assert "u:p" not in str(caught.value)


# ---- the breaker ----


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return []


@pytest.fixture
def breaker(clock, told):
    return Breaker(told.append, clock=clock)


def call(breaker, *, up: bool | None):
    with breaker.attempt() as attempt:
        attempt.up = up


def refused(breaker) -> UpstreamFault:
    with pytest.raises(UpstreamFault) as caught, breaker.attempt():
        pass
    return caught.value


def opened(breaker):
    for _ in range(LIMIT):
        call(breaker, up=False)


def test_it_opens_after_failures_in_a_row(breaker, told):
    """Five, not four; one success between them starts the count anew."""
    for _ in range(LIMIT - 1):
        call(breaker, up=False)
    call(breaker, up=True)
    for _ in range(LIMIT - 1):
        call(breaker, up=False)
    assert not breaker.is_open
    call(breaker, up=False)
    assert breaker.is_open
    assert told == ["open"]


def test_while_open_it_refuses_with_the_time_to_wait(breaker, clock):
    """Rounded up to whole seconds (RFC 9110 10.2.3)."""
    opened(breaker)
    assert refused(breaker).retry_after == PAUSE
    clock.now += 0.5
    assert refused(breaker).retry_after == 2
    clock.now += 1.2
    assert (refused(breaker).retry_after, refused(breaker).issue_code) == (1, "transient")


def test_one_probe_decides(breaker, clock, told):
    """While it is under way all others are refused; its success closes."""
    opened(breaker)
    clock.now += PAUSE
    with breaker.attempt() as probe:
        refused(breaker)
        probe.up = True
    call(breaker, up=True)
    assert told == ["open", "closed"]


def test_a_failed_probe_waits_longer_each_time(breaker, clock, told):
    """Twice as long, up to a limit."""
    opened(breaker)
    pause = PAUSE
    for _ in range(8):
        clock.now += pause
        call(breaker, up=False)
        pause = min(2 * pause, LONGEST)
        assert refused(breaker).retry_after == pause
    assert told == ["open"]


def test_a_cancelled_probe_lets_another_try(breaker, clock):
    """It learned nothing."""
    opened(breaker)
    clock.now += PAUSE
    call(breaker, up=None)
    call(breaker, up=True)
    assert not breaker.is_open


def test_an_error_inside_counts_as_what_was_said(breaker):
    """The breaker passes errors on."""
    for _ in range(LIMIT):
        with contextlib.suppress(KeyError), breaker.attempt() as attempt:
            attempt.up = False
            raise KeyError
    assert breaker.is_open


def test_late_failures_do_not_move_the_probe(breaker, clock):
    """Calls that were under way when it opened."""
    with breaker.attempt() as late:
        opened(breaker)
        clock.now += PAUSE
        late.up = False
    call(breaker, up=True)
    assert not breaker.is_open


# ---- profiles and credentials ----


@pytest.mark.parametrize("name", PLATFORMS)
def test_every_profile_loads(name):
    """And is the whole content of its file."""
    profile = load(name)
    assert profile.name == name
    assert set(tomllib.loads((profiles() / "ehr" / f"{name}.toml").read_text())) <= set(profile.__slots__)


def test_no_profile_without_a_name():
    """Each file is one of PLATFORMS."""
    assert {path.stem for path in (profiles() / "ehr").glob("*.toml")} == set(PLATFORMS)


def test_the_configuration_offers_each_platform():
    """And nothing else but `auto`: settings are read below the adapters, so they have a list of their own."""
    platform = next(item for item in fields(EhrSettings) if item.name == "platform")
    with pytest.raises(Wrong) as refused:
        platform.metadata["parse"]("?", Place("here", Path()))
    assert re.findall(r'"(\w+)"', refused.value.fix) == ["auto", *PLATFORMS]


def test_a_profile_with_an_unknown_member_is_refused():
    """A misspelt quirk would be no quirk."""
    with pytest.raises(ConfigError, match="client_idz"):
        make("generic", {"client_ids": True, "client_idz": True})


@pytest.mark.parametrize(
    ("software", "platform"),
    [("HAPI FHIR Server", "hapi"), ("Epic", "epic"), ("Cerner Millennium", "oracle"), ("Firely Server", "generic"), ("", "generic")],
)
def test_software_names_its_platform(software, platform):
    """CapabilityStatement.software.name."""
    assert of_software(software) == platform


# ---- what is taken from those who write ----


def said(*resources: dict, interactions: tuple[str, ...] = (), mode: str = "server") -> bytes:
    rest = {"mode": mode, "resource": list(resources), "interaction": [{"code": code} for code in interactions]}
    return json.dumps({"resourceType": "CapabilityStatement", "software": {"name": "x"}, "rest": [rest]}).encode()


def test_a_named_platform_takes_what_its_profile_says():
    """No statement is asked."""
    epic, generic = offers(load("epic")), offers(load("generic"))
    assert (epic.client_ids.of("Observation"), epic.conditional_create.of("Observation"), epic.transactions) == (False, False, False)
    assert (generic.client_ids.of("Observation"), generic.conditional_create.of("Observation"), generic.transactions) == (True, True, True)


def test_a_statement_is_believed_type_by_type():
    """Where it says something; elsewhere the platform's profile holds."""
    resources = ({"type": "Observation", "updateCreate": False}, {"type": "Patient", "updateCreate": True, "conditionalCreate": False})
    found = offers(load("generic"), statement(said(*resources, interactions=("batch",))))
    assert [found.client_ids.of(name) for name in ("Observation", "Patient", "Task")] == [False, True, True]
    assert [found.conditional_create.of(name) for name in ("Observation", "Patient")] == [True, False]
    assert found.transactions is False
    assert offers(load("epic"), statement(said(interactions=("transaction",)))).transactions is True


@pytest.mark.parametrize(
    "body", [said({"type": "Observation"}), said({"type": "Observation", "updateCreate": False}, mode="client"), b"{}", b"[", b'{"rest":5}']
)
def test_a_statement_that_says_nothing_decides_nothing(body):
    """HAPI takes ids of clients and does not mention it."""
    assert offers(load("hapi"), statement(body)).client_ids.of("Observation") is True
    assert offers(load("oracle"), statement(body)).client_ids.of("Observation") is False
    assert offers(load("hapi"), statement(body)).transactions is True


def test_the_operator_knows_best():
    """Before the statement, and before the profile."""
    read = statement(said({"type": "Observation", "updateCreate": True}, interactions=("transaction",)))
    found = offers(load("hapi"), read, Told(client_ids=False, transactions=False))
    assert (found.client_ids.of("Observation"), found.transactions) == (False, False)
    assert offers(load("epic"), None, Told(client_ids=True)).client_ids.of("Observation") is True


@pytest.mark.parametrize("given", [{"platform": "../hapi"}, {"platform": "nothing"}, {"transport": "curl"}])
def test_connect_refuses_unknown_names(given):
    """As settings are refused: with where and the remedy."""
    with pytest.raises(ConfigError):
        connect("x", "https://ehr.example/r4", **given)


async def test_credentials():
    """The headers of RFC 7617 and RFC 6750; refused once, there is no other to try."""
    assert await NoAuth().headers() == {}
    assert await Basic("a", "ü").headers() == {"Authorization": "Basic YTrDvA=="}
    assert await Bearer("t").headers() == {"Authorization": "Bearer t"}
    assert not Bearer("t").refused(await Bearer("t").headers())


def test_credentials_do_not_show():
    """In a repr, and so in no traceback or log."""
    assert "secret" not in repr(Basic("user", "secret")) + repr(Bearer("secret"))
