"""What becomes of an EHR's failures, through the whole adapter and a real socket or the double (FAULT-U1 to U26)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from dataclasses import replace

import httpx
import pytest
import trustme

from gateway.adapters.ehr import Bearer, Told, connect, tls_context
from gateway.adapters.ehr.base import EhrCall, OutcomeUnknown
from gateway.adapters.ehr.httpx_transport import HttpxTransport
from gateway.errors import UpstreamFault, UpstreamTimeout
from gateway.fhir.bundle import open_searchset
from gateway.fhir.interaction import Kind, Param
from gateway.sandbox.double import Double, Fault
from tests.support import parts
from tests.support.faults import fault_server

PATIENT = b'{"resourceType":"Patient","id":"a"}'
READ = EhrCall(Kind.READ, "Patient", "a")
SEARCH = EhrCall(Kind.SEARCH, "Patient", params=(Param("_id", "", "a"),))
CREATE = EhrCall(Kind.CREATE, "Patient", body=b'{"resourceType":"Patient"}')
UPDATE = EhrCall(Kind.UPDATE, "Patient", "a", body=PATIENT)
TRANSACTION = EhrCall(Kind.TRANSACTION, body=b'{"resourceType":"Bundle","type":"transaction","entry":[]}')
READS = pytest.mark.parametrize("call", [READ, SEARCH, EhrCall(Kind.CAPABILITIES)], ids=["read", "search", "capabilities"])
WRITES = pytest.mark.parametrize("call", [CREATE, UPDATE, TRANSACTION], ids=["create", "update", "transaction"])
BROKEN = ["reset", "reset-in-body", "closed", "short-body", "bad-chunk", "cut-chunks", "garbage", "two-lengths"]


@pytest.fixture
def double():
    double = Double()
    double.seed(PATIENT)
    return double


@pytest.fixture
async def ehr(double):
    ehr = connect("test", "http://double.test/fhir", platform="generic", transport=HttpxTransport(transport=httpx.ASGITransport(double)))
    yield ehr
    await ehr.close()


@pytest.fixture(params=["aiohttp", "httpx"])
async def faulty(request):
    """Make an EHR whose base misbehaves in one way; gives it and the server."""
    made = []
    async with fault_server(elsewhere="http://127.0.0.1:1") as server:

        def make(fault, **given):
            made.append(connect("test", f"{server.url}/{fault}", platform="generic", transport=request.param, **given))
            return made[-1], server

        yield make
        for ehr in made:
            await ehr.close()


async def fault(ehr, call) -> UpstreamFault:
    with pytest.raises(UpstreamFault) as caught:
        await ehr.send(call)
    return caught.value


async def unknown(ehr, call) -> OutcomeUnknown:
    with pytest.raises(OutcomeUnknown) as caught:
        await ehr.send(call)
    return caught.value


# ---- no whole answer ----


@pytest.mark.parametrize("broken", BROKEN)
async def test_a_read_is_tried_once_more_and_then_a_fault(faulty, broken):
    """FAULT-U7 to U12: 502 `transient`."""
    ehr, server = faulty(broken)
    error = await fault(ehr, READ)
    assert (error.status, error.issue_code, error.reason) == (502, "transient", "ehr-broken-answer")
    assert [one.method for one in server.asked] == ["GET", "GET"]


@pytest.mark.parametrize("broken", BROKEN)
@WRITES
async def test_a_write_is_sent_once_and_its_outcome_unknown(faulty, broken, call):
    """Never a second POST or PUT: the first may have been carried out."""
    ehr, server = faulty(broken)
    assert (await unknown(ehr, call)).reason == "ehr-broken-answer"
    assert len(server.asked) == 1


async def test_a_read_that_works_the_second_time_is_an_answer(double, ehr):
    """One broken connection is nobody's concern."""
    double.fail(Fault(drop=True))
    assert (await ehr.send(READ)).status == 200
    assert double.lines() == ["GET Patient/a", "GET Patient/a"]


@pytest.mark.parametrize("slow", ["slow-head", "slow-body"])
async def test_the_deadline_holds_for_a_read_with_its_second_try(faulty, slow):
    """504 `timeout` in the time set, not twice that (FAULT-U2, U3)."""
    ehr, server = faulty(slow, timeout=0.4)
    begun = time.monotonic()
    error = await fault(ehr, READ)
    assert (type(error), error.status, error.issue_code) == (UpstreamTimeout, 504, "timeout")
    assert time.monotonic() - begun < 3
    assert len(server.asked) == 1


@WRITES
async def test_a_slow_write_may_have_been_carried_out(faulty, call):
    """The deadline passed after it was sent."""
    ehr, _ = faulty("slow-head", timeout=0.3)
    assert (await unknown(ehr, call)).reason == "ehr-timeout"


@pytest.mark.parametrize("large", ["endless-body", "large"])
async def test_an_answer_over_the_cap(faulty, large):
    """502 `too-costly` for a read, unknown for a write (FAULT-U16)."""
    ehr, _ = faulty(large, cap=100_000)
    error = await fault(ehr, SEARCH)
    assert (error.status, error.issue_code) == (502, "too-costly")
    assert (await unknown(ehr, UPDATE)).reason == "ehr-too-large"


async def test_a_compressed_answer_is_refused(faulty):
    """It was not asked for, and nothing is inflated (FAULT-U17)."""
    ehr, _ = faulty("gzip-bomb")
    assert (await fault(ehr, READ)).reason == "ehr-encoded"


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("call", [READ, CREATE, UPDATE], ids=["read", "create", "update"])
async def test_a_write_that_was_not_sent_is_a_fault_like_a_read(transport, call):
    """A closed port: 502 `transient` with a time to come back (FAULT-U1)."""
    ehr = connect("test", f"http://127.0.0.1:{parts.free_port()}/fhir", platform="generic", transport=transport)
    error = await fault(ehr, call)
    assert (error.status, error.issue_code, error.reason) == (502, "transient", "ehr-unreachable")
    assert error.retry_after == 2
    await ehr.close()


async def test_the_error_names_nothing_of_the_ehr(faulty):
    """Messages reach callers."""
    ehr, server = faulty("garbage")
    error = await fault(ehr, READ)
    assert server.url not in str(error)
    assert "Patient" not in str(error)


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("call", [READ, CREATE], ids=["read", "create"])
async def test_an_ehr_that_cannot_prove_who_it_is(transport, call):
    """502 `security`, nothing sent, the credential least of all (FAULT-U20)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with fault_server(context) as server:
        ehr = connect("test", f"{server.url}/ok", platform="generic", transport=transport, auth=Bearer("secret"))
        error = await fault(ehr, call)
        assert (error.status, error.issue_code, error.reason) == (502, "security", "ehr-untrusted")
        assert server.asked == []
        await ehr.close()


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_an_ehr_that_knows_us_by_our_certificate(transport, tmp_path):
    """mTLS, with an authority of its own; without the certificate there is no answer."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = authority.issue_cert("gateway.test")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    known = tls_context(ca=tmp_path / "ca.pem", certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    async with fault_server(context) as server:
        for tls, statuses in ((known, [200]), (tls_context(ca=tmp_path / "ca.pem"), [])):
            ehr = connect("test", f"{server.url}/ok", platform="generic", transport=transport, tls=tls)
            with contextlib.suppress(UpstreamFault):
                statuses.remove((await ehr.send(READ)).status)
            assert statuses == []
            await ehr.close()
        assert len(server.asked) == 1


# ---- the breaker ----


async def test_an_ehr_that_is_down_is_answered_for_at_once():
    """After five failures calls fail without waiting, and say for how long (FAULT-U1)."""
    async with fault_server() as server:
        ehr = connect("test", f"{server.url}/slow-head", platform="generic", timeout=0.1)
        for _ in range(5):
            await fault(ehr, READ)
        error = await fault(ehr, READ)
        assert (error.reason, error.retry_after) == ("ehr-down", 2)
        assert len(server.asked) == 5
        await ehr.close()


async def test_a_write_while_it_is_down_was_not_sent(double, ehr):
    """UpstreamFault and not OutcomeUnknown."""
    double.fail(Fault(drop=True, times=0))
    for _ in range(5):
        await fault(ehr, READ)
    assert (await fault(ehr, UPDATE)).reason == "ehr-down"
    assert double.versions("Patient/a") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 429, 500])
async def test_an_ehr_that_answers_is_not_down(double, ehr, status):
    """Refusals, and failures of one request, do not open the breaker."""
    double.fail(Fault(status=status, body=b'{"resourceType":"OperationOutcome","issue":[]}', times=20))
    for _ in range(8):
        with contextlib.suppress(UpstreamFault):
            await ehr.send(READ)
    assert len(double.requests) == 8


# ---- statuses ----


@pytest.mark.parametrize("status", [400, 403, 405, 409, 412, 413, 422, 429, 503])
@pytest.mark.parametrize("call", [READ, UPDATE], ids=["read", "update"])
async def test_refusals_come_back_as_replies(double, ehr, status, call):
    """With their outcome and Retry-After, for the pipeline to translate (FAULT-U4 to U6, U21 to U23)."""
    outcome = b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"throttled"}]}'
    double.fail(Fault(status=status, body=outcome, headers={"Retry-After": "7"}))
    reply = await ehr.send(call)
    assert (reply.status, reply.body, reply.headers["retry-after"]) == (status, outcome, "7")


@pytest.mark.parametrize("status", [403, 413, 429, 503])
async def test_a_refusal_by_a_proxy_keeps_its_status_only(double, ehr, status):
    """HTML is not handed on."""
    double.fail(Fault(status=status, body=b"<html>", headers={"Content-Type": "text/html"}))
    reply = await ehr.send(UPDATE)
    assert (reply.status, reply.body) == (status, b"")


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("call", [READ, UPDATE], ids=["read", "update"])
async def test_a_proxy_does_not_say_that_a_resource_is_absent(double, ehr, status, call):
    """A push would be written again over a correction, because of a web server's error page."""
    double.fail(Fault(status=status, body=b"<html>", headers={"Content-Type": "text/html"}))
    assert (await fault(ehr, call)).reason == "ehr-content-type"


async def test_an_absent_resource_may_come_without_a_body(double, ehr):
    """An empty 404 is the EHR's."""
    double.fail(Fault(status=404))
    assert (await ehr.send(READ)).status == 404


@pytest.mark.parametrize("call", [READ, UPDATE], ids=["read", "update"])
async def test_a_401_is_the_gateways_own_trouble(double, ehr, call):
    """502, never passed on as the caller's (FAULT-U21); a write was refused, so its outcome is known."""
    double.fail(Fault(status=401, headers={"WWW-Authenticate": "Bearer"}))
    error = await fault(ehr, call)
    assert (error.status, error.reason) == (502, "ehr-credential")


@pytest.mark.parametrize("status", [500, 501, 502, 504])
async def test_failures_of_the_ehr(double, ehr, status):
    """502 for reads; a write may have been carried out before the failure."""
    double.fail(Fault(status=status, body=b"{}", headers={"Retry-After": "9"}), Fault(status=status))
    error = await fault(ehr, READ)
    assert (error.status, error.reason, error.retry_after) == (502, f"ehr-{status}", 9)
    assert (await unknown(ehr, CREATE)).reason == f"ehr-{status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_faults(double, ehr, status):
    """Not followed, with or without a loop (FAULT-U18, U19)."""
    double.fail(Fault(status=status, headers={"Location": "http://elsewhere.test/fhir/Patient/a"}, times=2))
    assert (await fault(ehr, READ)).reason == "ehr-redirect"
    assert (await unknown(ehr, UPDATE)).reason == "ehr-redirect"
    assert len(double.requests) == 2


async def test_no_credential_goes_to_another_host():
    """A second listener hears nothing (FAULT-U19)."""
    async with fault_server() as other, fault_server(elsewhere=other.url) as server:
        ehr = connect("test", f"{server.url}/redirect", platform="generic", auth=Bearer("secret"))
        await fault(ehr, READ)
        assert server.asked[0].headers["authorization"] == "Bearer secret"
        assert other.asked == []
        await ehr.close()


# ---- answers that are no FHIR ----

NO_FHIR = {
    "truncated": (b'{"resourceType":"Patient","id":', {}, "ehr-malformed"),
    "truncated inside": (b'{"resourceType":"Patient","name":[{"family":"x"}', {}, "ehr-malformed"),
    "invalid UTF-8": (b'{"resourceType":"Patient","id":"a\xff"}', {}, "ehr-malformed"),
    "empty": (b" ", {}, "ehr-malformed"),
    "a list": (b"[]", {}, "ehr-malformed"),
    "no type": (b'{"id":"a"}', {}, "ehr-malformed"),
    "two documents": (b'{"resourceType":"Patient"}{}', {}, "ehr-malformed"),
    "deep": (b'{"resourceType":"Patient","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", {}, "ehr-malformed"),
    "sign-in page": (b"<html>Sign in</html>", {"Content-Type": "text/html"}, "ehr-content-type"),
    "XML": (b"<Patient/>", {"Content-Type": "application/fhir+xml"}, "ehr-content-type"),
    "JSON as text": (PATIENT, {"Content-Type": "text/plain"}, "ehr-content-type"),
    "no content type": (PATIENT, {"Content-Type": ""}, "ehr-content-type"),
    "other charset": (PATIENT, {"Content-Type": "application/fhir+json; charset=iso-8859-1"}, "ehr-content-type"),
    "compressed": (PATIENT, {"Content-Encoding": "gzip"}, "ehr-encoded"),
}


@pytest.mark.parametrize(("body", "headers", "reason"), NO_FHIR.values(), ids=NO_FHIR)
@READS
async def test_a_200_that_is_no_fhir_is_a_fault(double, ehr, call, body, headers, reason):
    """502 `structure` (FAULT-U13 to U15)."""
    double.fail(Fault(status=200, body=body, headers=headers))
    error = await fault(ehr, call)
    assert (error.status, error.issue_code, error.reason) == (502, "structure", reason)


@pytest.mark.parametrize(("body", "headers", "reason"), NO_FHIR.values(), ids=NO_FHIR)
@WRITES
async def test_a_write_with_such_an_answer_is_unknown(double, ehr, call, body, headers, reason):
    """It may have been carried out (FAULT-U13)."""
    double.fail(Fault(status=200, body=body, headers=headers))
    assert (await unknown(ehr, call)).reason == reason


@pytest.mark.parametrize(
    "content_type", ["application/fhir+json", "application/json", "application/fhir+json; charset=UTF-8", 'application/json;charset="utf-8"']
)
async def test_json_under_its_usual_names(double, ehr, content_type):
    """With and without a charset."""
    double.fail(Fault(status=200, body=PATIENT, headers={"Content-Type": content_type}))
    assert (await ehr.send(READ)).body == PATIENT


async def test_a_byte_order_mark_is_left_out(double, ehr):
    """RFC 8259 section 8.1 lets a reader ignore it; a JSON parser further on would not."""
    double.fail(Fault(status=200, body=b"\xef\xbb\xbf" + PATIENT))
    assert (await ehr.send(READ)).body == PATIENT


async def test_a_search_that_is_no_bundle(double, ehr):
    """Any other resource in its place is a fault (ATK-F21)."""
    double.fail(Fault(status=200, body=PATIENT))
    assert (await fault(ehr, SEARCH)).reason == "ehr-other-type"


@pytest.mark.parametrize("status", [201, 202, 204, 206, 304])
async def test_a_read_is_answered_by_200_only(double, ehr, status):
    """What else would mean a part, or nothing."""
    double.fail(Fault(status=status, body=b"" if status in (204, 304) else PATIENT))
    assert (await fault(ehr, READ)).status == 502


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_a_write_may_be_answered_without_a_body(double, ehr, status):
    """Some EHRs give none, whatever was preferred."""
    double.fail(Fault(status=status, after=True, headers={"ETag": 'W/"2"'}))
    reply = await ehr.send(UPDATE)
    assert (reply.status, reply.body, reply.etag) == (status, b"", 'W/"2"')


async def test_a_transaction_needs_an_answer(double, ehr):
    """Without its entries nobody knows what was made."""
    double.fail(Fault(status=200, after=True))
    await unknown(ehr, TRANSACTION)


async def test_an_answer_lost_after_the_write(double, ehr):
    """The write took effect once, and we say that we do not know (FAULT-U8)."""
    double.fail(Fault(method="PUT", after=True, drop=True))
    await unknown(ehr, UPDATE)
    assert double.versions("Patient/a") == 2


async def test_cancelling_passes_and_says_nothing_of_the_ehr(double, ehr):
    """A caller that goes away is no failure of the EHR."""
    double.fail(Fault(delay=5, times=0))
    for _ in range(6):
        task = asyncio.create_task(ehr.send(READ))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    double.heal()
    assert (await ehr.send(READ)).status == 200


# ---- what is sent ----


async def test_what_a_read_carries(double, ehr):
    """JSON is asked for, the request's id goes along, and no more."""
    await ehr.send(EhrCall(Kind.READ, "Patient", "a", request_id="r-1"))
    headers = double.requests[0].headers
    assert headers["accept"] == "application/fhir+json"
    assert headers["x-request-id"] == "r-1"
    assert headers["user-agent"].startswith("fhir-portal-gateway/")
    assert "cache-control" not in headers
    assert "authorization" not in headers


async def test_what_a_write_carries(double, ehr):
    """The bytes as they are; the representation is asked for."""
    body = b' {"id" : "a",\n"resourceType":"Patient"} '
    await ehr.send(EhrCall(Kind.UPDATE, "Patient", "a", body=body, if_match='W/"1"'))
    asked = double.requests[0]
    assert (asked.line, asked.body) == ("PUT Patient/a", body)
    assert asked.headers["content-type"] == "application/fhir+json"
    assert asked.headers["prefer"] == "return=representation"
    assert asked.headers["if-match"] == 'W/"1"'


async def test_searches_ask_for_a_fresh_result(double, ehr):
    """First pages, next pages and searches by POST."""
    double.seed(*({"resourceType": "Patient", "id": f"n{n}"} for n in range(3)))
    reply = await ehr.send(EhrCall(Kind.SEARCH, "Patient", params=(Param("_count", "", "2"),)))
    link = next(one["url"] for one in json.loads(reply.body)["link"] if one["relation"] == "next")
    await ehr.send(EhrCall(Kind.SEARCH, "Patient", page=ehr.relative(link)))
    await ehr.send(EhrCall(Kind.SEARCH, "Patient", params=(Param("_id", "", "x" * 3000),)))
    assert [one.method for one in double.requests] == ["GET", "GET", "POST"]
    assert {one.headers["cache-control"] for one in double.requests} == {"no-cache"}


@pytest.mark.parametrize("call", [EhrCall(Kind.READ, "Patient", ".."), EhrCall(Kind.READ, "metadata", "a"), EhrCall(Kind.SEARCH, page="../x")])
async def test_parts_that_are_none_are_not_sent(double, ehr, call):
    """A mistake of ours, before anything leaves."""
    with pytest.raises(ValueError, match="no"):
        await ehr.send(call)
    assert double.requests == []


async def test_what_cannot_be_a_header_is_not_sent(double, ehr):
    """No second header through a line break."""
    with pytest.raises(ValueError, match="this is no value of a header"):
        await ehr.send(EhrCall(Kind.UPDATE, "Patient", "a", body=PATIENT, if_match='W/"1"\r\nX: y'))
    assert double.versions("Patient/a") == 1


# ---- finding out the platform ----


def auto(double, **given):
    return connect("test", "http://double.test/fhir", transport=HttpxTransport(transport=httpx.ASGITransport(double)), **given)


async def test_the_platform_is_asked_for_once():
    """Before the first call; then it is known."""
    double = Double(software="HAPI FHIR Server")
    double.seed(PATIENT)
    ehr = auto(double)
    assert (await asyncio.gather(*(ehr.send(READ) for _ in range(5))))[0].status == 200
    assert ehr.profile.name == "hapi"
    assert [line for line in double.lines() if "metadata" in line] == ["GET metadata"]
    await ehr.close()


async def test_an_ehr_without_a_statement_is_generic(double):
    """A refusal settles it."""
    double.fail(Fault(path="metadata", status=403, times=0))
    ehr = auto(double)
    for _ in range(3):
        assert (await ehr.send(READ)).status == 200
    assert ehr.profile.name == "generic"
    assert len([line for line in double.lines() if "metadata" in line]) == 1
    await ehr.close()


async def test_a_failing_statement_does_not_hold_up_the_calls(double):
    """The call goes out as to a generic server; the statement is asked for later, not with each call."""
    double.fail(Fault(path="metadata", status=500, times=0))
    ehr = auto(double)
    for _ in range(5):
        assert (await ehr.send(READ)).status == 200
    assert len([line for line in double.lines() if "metadata" in line]) == 1
    await ehr.close()


async def test_a_slow_statement_is_waited_for_a_little(double, monkeypatch):
    """And used when it comes."""
    monkeypatch.setattr("gateway.adapters.ehr.auto.PATIENCE", 0.05)
    double.fail(Fault(path="metadata", delay=5))
    ehr = auto(double)
    begun = time.monotonic()
    assert (await ehr.send(READ)).status == 200
    assert time.monotonic() - begun < 3
    await ehr.close()


async def test_what_is_taken_from_those_who_write_is_read_from_the_statement(double):
    """Asked once, with the platform; a named platform is not asked."""
    closed = Double(client_ids=False, transactions=False)
    ehr = auto(closed)
    found = await ehr.offers()
    assert (found.client_ids.of("Observation"), found.transactions, ehr.offered) == (False, False, found)
    assert await ehr.offers() == found
    assert closed.lines() == ["GET metadata"]
    await ehr.close()
    named = auto(double, platform="generic")
    assert (await named.offers()).client_ids.of("Observation") is True
    assert double.lines() == []
    await named.close()


async def test_the_operator_s_word_comes_before_the_statement(double):
    """A statement can be wrong."""
    ehr = auto(double, told=Told(client_ids=False))
    assert (await ehr.offers()).client_ids.of("Observation") is False
    await ehr.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Fault(status=503), "ehr-503"), (Fault(status=502), "ehr-502"), (Fault(status=401), "ehr-credential"), (Fault(drop=True), "ehr-unreachable")],
)
async def test_an_ehr_that_is_away_cannot_say(double, fault, reason):
    """The fault is the one that a call would meet; when it is back it is asked at once, and then it is known."""
    double.fail(replace(fault, path="metadata", times=0))
    ehr = auto(double)
    for _ in range(2):
        with pytest.raises(UpstreamFault) as error:
            await ehr.offers()
        assert error.value.reason in (reason, "ehr-broken-answer")
    double.heal()
    assert (await ehr.offers()).client_ids.of("Observation") is True
    await ehr.close()


async def test_an_ehr_whose_statement_cannot_be_read_is_as_a_generic_one(double):
    """It is there: nobody has to wait for it, and it is not asked each time."""
    double.fail(Fault(path="metadata", status=500, times=0))
    ehr = auto(double)
    for _ in range(3):
        assert (await ehr.offers()).client_ids.of("Observation") is True
    assert double.lines() == ["GET metadata"]
    await ehr.close()


async def test_who_has_little_patience_is_told_so(double):
    """And does not ask again within the time in which the last one was in vain."""
    double.fail(Fault(path="metadata", delay=0.2))
    ehr = auto(double)
    with pytest.raises(UpstreamTimeout) as error:
        await ehr.offers(patience=0.01)
    assert error.value.reason == "ehr-statement-slow"
    assert (await ehr.offers()).transactions is True
    await ehr.close()


# ---- other addresses ----

BASES = ("http://double.test/fhir", "https://ehr.example/r4")


async def test_an_ehr_is_known_by_its_other_addresses(double):
    """Exactly those: scheme, host, port and path."""
    ehr = auto(double, platform="generic", aliases=("https://ehr.example/r4", "http://double.test/fhir/inner"))
    assert (ehr.base_url, ehr.aliases) == ("http://double.test/fhir", ("https://ehr.example/r4", "http://double.test/fhir/inner"))
    known = {
        "http://double.test/fhir/Patient/a": "Patient/a",
        "https://ehr.example/r4/Patient/a": "Patient/a",
        "https://EHR.example:443/r4/Patient/a": "Patient/a",
        "http://double.test/fhir/inner/Patient/a": "Patient/a",
        "https://ehr.example/r4?page=2": "?page=2",
    }
    assert {url: ehr.relative(url) for url in known} == known
    foreign = (
        "http://ehr.example/r4/Patient/a",
        "https://ehr.example/r4x/Patient/a",
        "https://ehr.example:8443/r4/Patient/a",
        "https://ehr.example/Patient/a",
    )
    assert [ehr.relative(url) for url in foreign] == [None] * 4
    await ehr.close()


async def test_a_page_link_by_another_address_is_followed_at_the_ehr_s_own(double):
    """What is sent goes to the one address that was configured."""
    double.seed(*({"resourceType": "Patient", "id": f"p{n}"} for n in range(3)))
    ehr = auto(double, platform="generic", aliases=("https://ehr.example/r4",))
    first = await ehr.send(EhrCall(Kind.SEARCH, "Patient", params=(Param("_count", "", "1"),)))
    link = open_searchset(first.body).links["next"].replace(*BASES)
    second = await ehr.send(EhrCall(Kind.SEARCH, "Patient", page=ehr.relative(link) or ""))
    assert len(open_searchset(second.body).entries) == 1
    await ehr.close()


# ---- HAPI's own ways ----


@pytest.mark.parametrize(
    ("diagnostics", "if_match", "status"),
    [
        ("HAPI-0550: HAPI-0989: Trying to update Patient/a/_history/1 but this is not the current version", 'W/"1"', 412),
        ("HAPI-0550: HAPI-0823: The operation has failed with a version constraint failure", 'W/"1"', 412),
        ("HAPI-0550: HAPI-0823: The operation has failed with a version constraint failure", "", 409),
        ("HAPI-0550: HAPI-0515: Unable to delete Patient/a because at least one resource has a reference to this resource", 'W/"1"', 409),
    ],
)
async def test_a_409_of_hapi_is_told_apart(double, diagnostics, if_match, status):
    """A stale version is 412; what else is in the way stays 409 (FAULT-U23)."""
    ehr = auto(double, platform="hapi")
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing", "diagnostics": diagnostics}]}
    double.fail(Fault(status=409, body=json.dumps(outcome).encode()))
    assert (await ehr.send(EhrCall(Kind.UPDATE, "Patient", "a", body=PATIENT, if_match=if_match))).status == status
    await ehr.close()
