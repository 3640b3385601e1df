"""The gateway as backend client of an EHR (A18.83, 86, 88, 90): against a double whose token endpoint fails, and one gateway in front of another."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwk

from gateway.adapters import ehr as adapters
from gateway.adapters.ehr.base import EhrCall
from gateway.adapters.ehr.httpx_transport import HttpxTransport
from gateway.errors import UpstreamFault, UpstreamTimeout
from gateway.fhir.interaction import Kind
from gateway.smart.client.backend import Backend, BackendClient
from gateway.smart.client.tokens import Tokens
from gateway.smart.http import Http
from tests.support.faults import fault_server
from tests.support.inner_gateway import Inner, inner_gateway
from tests.support.smart_ehr import BASE, Reply, SmartEhr
from tests.support.whole_in_process import Whole, whole

KEY = jwk.ECKey.generate_key("P-384", {"kid": "k1"}, private=True)
OTHER = jwk.ECKey.generate_key("P-384", {"kid": "k1"}, private=True)
READ = EhrCall(Kind.READ, "Patient", "a")
CREATE = EhrCall(Kind.CREATE, "Patient", body=b'{"resourceType":"Patient"}')
TOKEN = {"access_token": "t", "token_type": "bearer", "expires_in": 300, "scope": "system/*.rs"}


@dataclass
class Scene:
    """The EHR, the gateway's adapter to it, and its token source."""

    smart: SmartEhr
    ehr: Any
    tokens: Tokens
    key_file: Path
    clock: Any

    async def read(self) -> int:
        return (await self.ehr.send(READ)).status

    async def fault(self, call: EhrCall = READ) -> UpstreamFault:
        with pytest.raises(UpstreamFault) as caught:
            await self.ehr.send(call)
        return caught.value


@dataclass
class Clock:
    at: float = field(default_factory=time.monotonic)

    def __call__(self) -> float:
        return self.at


@asynccontextmanager
async def scene(folder: Path, *, patience: float = 2.0, smart: SmartEhr | None = None, **client: Any):
    """Everything in this process; the clock is the test's."""
    smart = smart or SmartEhr([KEY.as_dict(private=False)])
    smart.double.seed({"resourceType": "Patient", "id": "a"})
    path, clock = folder / "key.json", Clock()
    path.write_text(json.dumps(KEY.as_dict(private=True)))
    settings = BackendClient("test", BASE, "gateway", path, "", "system/*.rs", loopback=True)
    http = Http(adapters.tls_context(), timeout=patience, transport=httpx.ASGITransport(smart))
    tokens = Tokens(Backend(replace(settings, **client), http, clock=clock), clock=clock)
    ehr = adapters.connect("test", BASE, platform="generic", auth=tokens, transport=HttpxTransport(transport=httpx.ASGITransport(smart)))
    yield Scene(smart, ehr, tokens, path, clock)
    await ehr.close()


async def test_discovery_and_the_token_request_are_what_smart_asks_for(tmp_path):
    """A18.83, 86, 88, HL7@29: the endpoint from the EHR's own document, a form with an assertion, the token as Bearer to the base alone."""
    async with scene(tmp_path) as at:
        assert await at.read() == 200
        assert at.smart.discovered[0]["accept"] == "application/json"
        (asked,) = at.smart.asked
        assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
        assert set(asked.form) == {"grant_type", "scope", "client_assertion_type", "client_assertion"}
        assert (asked.form["grant_type"], asked.form["scope"]) == ("client_credentials", "system/*.rs")
        assert asked.form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assert asked.header == {"alg": "ES384", "kid": "k1", "typ": "JWT"}
        assert "authorization" not in asked.headers
        assert at.smart.double.requests[0].headers["authorization"] == "Bearer token-1"


async def test_fifty_requests_at_start_make_one_token_request(tmp_path):
    """All of them go through."""
    async with scene(tmp_path) as at:
        at.smart.delay = 0.05
        assert await asyncio.gather(*(at.read() for _ in range(50))) == [200] * 50
        assert (len(at.smart.asked), len(at.smart.discovered)) == (1, 1)


async def test_each_token_request_has_a_jti_of_its_own(tmp_path):
    """AUTHLIB-E16: the double takes none twice."""
    async with scene(tmp_path) as at:
        for _ in range(4):
            assert await at.read() == 200
            at.clock.at += 290
        assert len({one.claims["jti"] for one in at.smart.asked}) == 4


async def test_a_revoked_token_is_replaced_by_one_new_one(tmp_path):
    """A 401 is answered by a token request and one more try, for all who were refused, writes as well."""
    async with scene(tmp_path) as at:
        await at.read()
        at.smart.revoke()
        found = await asyncio.gather(*(at.read() for _ in range(10)), at.ehr.send(CREATE))
        assert [*found[:10], found[10].status] == [200] * 10 + [201]
        assert len(at.smart.asked) == 2
        assert [one.method for one in at.smart.double.requests].count("POST") == 1


async def test_an_ehr_that_takes_no_token_costs_two_token_requests(tmp_path):
    """Expired at once: 502, whoever asks, and no storm."""
    async with scene(tmp_path) as at:
        at.smart.replies = [Reply(body=TOKEN)] * 50
        assert {(await at.fault()).reason for _ in range(20)} == {"ehr-credential"}
        assert len(at.smart.asked) == 2


async def test_discovery_is_kept_as_long_as_it_says(tmp_path):
    """Its Cache-Control, an hour at most; a refusal asks anew, since the endpoint may have moved."""
    async with scene(tmp_path) as at:
        at.smart.configuration_headers = {"Cache-Control": "max-age=1000"}
        for _ in range(3):
            await at.read()
            at.clock.at += 290
        assert (len(at.smart.discovered), len(at.smart.asked)) == (1, 3)
        at.smart.token_endpoint = "http://127.0.0.1:9/new/token"
        at.smart.replies = [Reply(404, {})]
        await at.fault()
        at.clock.at += 3
        assert await at.read() == 200
        assert (len(at.smart.discovered), at.smart.asked[-1].claims["aud"]) == (2, "http://127.0.0.1:9/new/token")


async def test_the_endpoint_that_is_set_needs_no_discovery(tmp_path):
    """For EHRs whose document is missing or wrong."""
    async with scene(tmp_path, token_endpoint="http://127.0.0.1:9/token") as at:
        at.smart.configuration_status = 404
        assert await at.read() == 200
        assert at.smart.discovered == []


@pytest.mark.parametrize("endpoint", ["http://ehr.test/token", "/token", "", "ftp://127.0.0.1/token", 7])
async def test_no_assertion_goes_where_it_may_be_read(tmp_path, endpoint):
    """https, or loopback by the setting; the fault is the gateway's own sign-in (FAULT-U21)."""
    async with scene(tmp_path) as at:
        at.smart.token_endpoint = endpoint
        error = await at.fault()
        assert (error.status, error.reason, error.issue_code) == (502, "ehr-smart-configuration", "login")
        assert at.smart.asked == []


async def test_loopback_needs_its_setting(tmp_path):
    """Plain http is for development."""
    async with scene(tmp_path, loopback=False) as at:
        assert (await at.fault()).reason == "ehr-smart-configuration"


FAILURES = {
    "HTML": (Reply(body=b"<html>Sign in</html>", headers={"Content-Type": "text/html"}), "ehr-token-unusable"),
    "wrong token type": (Reply(body=TOKEN | {"token_type": "mac"}), "ehr-token-unusable"),
    "large": (Reply(body=b" " * 100_000), "ehr-token-unusable"),
    "500": (Reply(500, b"Traceback: Ms. Okafor"), "ehr-token-down"),
    "503": (Reply(503, headers={"Retry-After": "7"}), "ehr-token-down"),
    "429": (Reply(429, headers={"Retry-After": "7"}), "ehr-token-throttled"),
    "redirect": (Reply(302, headers={"Location": "http://127.0.0.1:8/token"}), "ehr-token-unusable"),
    "307": (Reply(307, headers={"Location": "http://127.0.0.1:8/token"}), "ehr-token-unusable"),
    "invalid_client": (Reply(400, {"error": "invalid_client", "error_description": "Ms. Okafor"}), "ehr-token-refused"),
    "invalid_scope": (Reply(400, {"error": "invalid_scope"}), "ehr-token-refused"),
}


@pytest.mark.parametrize(("reply", "reason"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("call", [READ, CREATE], ids=["read", "create"])
async def test_each_failure_is_a_fault_and_ends_when_the_ehr_is_well(tmp_path, reply, reason, call):
    """Nothing was sent to the EHR, nothing of its words comes out, those who come in the pause do not wait, and afterwards all is well."""
    async with scene(tmp_path) as at:
        at.smart.replies = [reply]
        error = await at.fault(call)
        assert (error.status, error.reason, error.issue_code) == (502, reason, "login")
        assert error.retry_after == (7 if "Retry-After" in reply.headers else 2)
        assert "Okafor" not in str(error)
        assert (await at.fault()).reason == reason
        assert (len(at.smart.asked), at.smart.double.requests) == (1, [])
        at.clock.at += 7
        assert await at.read() == 200


async def test_a_slow_token_endpoint_is_waited_for_once(tmp_path):
    """504 for all who waited, and for who comes after at once."""
    async with scene(tmp_path, patience=0.2) as at:
        at.smart.replies = [Reply(delay=5)]
        begun = time.monotonic()
        errors = [one.reason for one in await asyncio.gather(*(at.fault() for _ in range(10)))]
        assert errors == ["ehr-token-timeout"] * 10
        with pytest.raises(UpstreamTimeout):
            await at.ehr.send(READ)
        assert time.monotonic() - begun < 1
        assert len(at.smart.asked) == 1


async def test_no_life_is_a_minute(tmp_path):
    """No expires_in: asked for again within it, beside the requests."""
    async with scene(tmp_path) as at:
        at.smart.life = None
        await at.read()
        at.clock.at += 46
        assert await at.read() == 200
        await asyncio.sleep(0.05)
        assert len(at.smart.asked) == 2
        assert at.smart.double.requests[-1].headers["authorization"] == "Bearer token-1"
        await at.read()
        assert at.smart.double.requests[-1].headers["authorization"] == "Bearer token-2"


async def test_rotated_keys_count_without_a_restart(tmp_path):
    """The EHR has another key of ours now: refused until the file is replaced; a broken file does not replace the key that works."""
    async with scene(tmp_path) as at:
        at.smart.keys = [OTHER.as_dict(private=False)]
        assert (await at.fault()).reason == "ehr-token-refused"
        at.key_file.write_text("half a key")
        at.clock.at += 60
        assert (await at.fault()).reason == "ehr-token-refused"
        at.key_file.write_text(json.dumps(OTHER.as_dict(private=True)))
        at.clock.at += 60
        assert await at.read() == 200


async def test_a_clock_that_differs_is_allowed_for(tmp_path):
    """The EHR's Date says what time it is there: an assertion of ours would be over, or too long."""
    for ahead in (3600, -3600):
        smart = SmartEhr([KEY.as_dict(private=False)], clock=lambda ahead=ahead: time.time() + ahead)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(smart.clock()))
        smart.configuration_headers = {"Date": date}
        async with scene(tmp_path, smart=smart) as at:
            assert await at.read() == 200


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
async def test_a_token_goes_to_the_base_and_no_other_host(tmp_path, transport):
    """A18.88, HL7@97, HL7@267: a redirect, and a reference to another host, get nothing; the token endpoint's redirect neither."""
    smart = SmartEhr([KEY.as_dict(private=False)])
    path = tmp_path / "key.json"
    path.write_text(json.dumps(KEY.as_dict(private=True)))
    http = Http(adapters.tls_context(), transport=httpx.ASGITransport(smart))
    tokens = Tokens(Backend(BackendClient("test", BASE, "gateway", path, "", "system/*.rs", loopback=True), http))
    async with fault_server() as other, fault_server(elsewhere=other.url) as server:
        ehr = adapters.connect("test", f"{server.url}/redirect", platform="generic", auth=tokens, transport=transport)
        with pytest.raises(UpstreamFault):
            await ehr.send(READ)
        assert server.asked[0].headers["authorization"] == "Bearer token-1"
        with pytest.raises(ValueError):
            await ehr.send(EhrCall(Kind.SEARCH, "Patient", page=f"{other.url}/Patient"))
        assert other.asked == []
        plain = Http(adapters.tls_context())
        answer = await plain.post(f"{server.url}/redirect", {"client_assertion": "x"})
        assert (answer.status, other.asked) == (302, [])
        await ehr.close()


# ---- one gateway in front of another ----


@pytest.fixture(scope="module")
def inner(tmp_path_factory):
    with inner_gateway(tmp_path_factory.mktemp("inner")) as found:
        asyncio.run(found.backend("outer", KEY.as_dict(private=False)))
        yield found


@asynccontextmanager
async def outer(inner: Inner, folder: Path, **environ: str):
    """The gateway before it. A token of its own each time, so that requests are counted anew."""
    key = folder / "key.json"
    key.write_text(json.dumps(KEY.as_dict(private=True)))
    sign_in = {"AUTH": "smart-backend", "CLIENT_ID": "outer", "KEY_FILE": str(key), "SCOPE": "system/*.cruds", "TOKEN_LOOPBACK": "true"}
    inner.token_requests.clear()
    async with whole(
        f"{inner.url}/fhir/hapi", folder, ehr="st", environ={f"GATEWAY_EHR_ST_{name}": value for name, value in (sign_in | environ).items()}
    ) as found:
        yield found


async def patient(at: Whole, scope: str = "patient/*.rs") -> str:
    return await at.token(scope, patient="a")


async def test_reads_and_searches_go_through_two_gateways(inner, tmp_path):
    """The bytes are the EHR's own but for addresses; pages go on; what is another's stays hidden; one token serves all."""
    async with outer(inner, tmp_path) as at:
        token = await patient(at)
        read = await at.fhir(token, "GET", "Patient/a")
        assert (read.status_code, read.json()["name"]) == (200, [{"family": "Inner"}])
        first = (await at.fhir(token, "GET", "Observation?patient=a&_count=4")).json()
        link = next(one["url"] for one in first["link"] if one["relation"] == "next")
        second = (await at.fhir(token, "GET", link.removeprefix(f"{at.base}/"))).json()
        ids = {one["resource"]["id"] for page in (first, second) for one in page["entry"]}
        assert ids >= {f"o{n}" for n in range(7)}
        assert first["entry"][0]["fullUrl"].startswith(at.base)
        assert (await at.fhir(token, "GET", "Patient/b")).status_code == 404
        assert (await at.http.get(f"{at.base}/metadata")).status_code == 200
        assert len(inner.token_requests) == 1


async def test_what_is_pushed_goes_through_two_gateways(inner, tmp_path):
    """From the outer inbox to the inner one to the EHR, once."""
    async with outer(inner, tmp_path) as at:
        token = await at.token("system/Observation.cru", push={"mode": "deliver", "ehr": "st"})
        body = {"resourceType": "Observation", "status": "final", "code": {"text": "pushed"}, "subject": {"reference": "Patient/a"}}
        answer = await at.fhir(token, "POST", "Observation", body)
        assert answer.status_code == 201
        id_ = answer.headers["location"].partition("/Observation/")[2].partition("/")[0]
        assert inner.double.versions(f"Observation/{id_}") == 1
        assert b'"pushed"' in inner.double.raw(f"Observation/{id_}")


async def test_an_app_writes_through_two_gateways(inner, tmp_path):
    """A message of a patient is in the EHR, with her as its sender."""
    async with outer(inner, tmp_path) as at:
        token = await patient(at, "patient/Communication.crs")
        body = {
            "resourceType": "Communication",
            "status": "in-progress",
            "subject": {"reference": "Patient/a"},
            "sender": {"reference": "Patient/a"},
            "payload": [{"contentString": "Hello"}],
        }
        answer = await at.fhir(token, "POST", "Communication", body)
        assert answer.status_code == 201, answer.text
        id_ = answer.headers["location"].partition("/Communication/")[2].partition("/")[0]
        assert b'"Hello"' in inner.double.raw(f"Communication/{id_}")


async def test_fifty_requests_at_start_of_the_outer_gateway(inner, tmp_path):
    """One token request, and every one is answered."""
    async with outer(inner, tmp_path) as at:
        token = await patient(at)
        found = await asyncio.gather(*(at.fhir(token, "GET", f"Observation?patient=a&_count={n + 1}") for n in range(50)))
        assert {one.status_code for one in found} == {200}
        assert len(inner.token_requests) == 1


async def test_a_revocation_by_the_inner_gateway_costs_one_token(inner, tmp_path):
    """The outer one recovers within the request."""
    async with outer(inner, tmp_path) as at:
        token = await patient(at)
        assert (await at.fhir(token, "GET", "Patient/a")).status_code == 200
        await inner.revoke("outer")
        found = await asyncio.gather(*(at.fhir(token, "GET", f"Observation?patient=a&_count={n + 1}") for n in range(8)))
        assert {one.status_code for one in found} == {200}
        assert len(inner.token_requests) == 2


async def test_a_client_that_the_inner_gateway_does_not_know(inner, tmp_path):
    """502 with a reason on record, and none of the EHR's words."""
    async with outer(inner, tmp_path, CLIENT_ID="stranger") as at:
        answer = await at.fhir(await patient(at), "GET", "Patient/a")
        assert answer.status_code == 502
        assert answer.json()["issue"][0]["code"] == "login"
        assert "invalid_client" not in answer.text
        await at.gateway.state.audit.load()
        records = await at.gateway.state.audit.search(limit=1)
        assert records[0].reason == "ehr-token-refused"


async def test_an_ehr_fetches_the_gateways_keys(inner, tmp_path):
    """What signs is published before it signs: a second key behind the first is seen at once, in front of it it signs; never a private part."""
    new = jwk.ECKey.generate_key("P-384", {"kid": "k2"}, private=True)
    async with outer(inner, tmp_path) as at:
        address = f"{at.base.partition('/fhir/')[0]}/auth/st/upstream/jwks"

        async def published() -> list[str]:
            answer = await at.http.get(address)
            assert answer.headers["cache-control"] == "public, max-age=300"
            keys = answer.json()["keys"]
            assert not {"d", "p", "q", "k"} & {member for key in keys for member in key}
            return [key["kid"] for key in keys]

        both = [KEY.as_dict(private=True), new.as_dict(private=True)]
        assert await published() == ["k1"]
        (tmp_path / "key.json").write_text(json.dumps({"keys": both}))
        assert await published() == ["k1", "k2"]
        assert (await at.fhir(await patient(at), "GET", "Patient/a")).status_code == 200
        (tmp_path / "key.json").write_text("broken")
        assert (await at.http.get(address)).status_code == 503
        assert (await at.http.get(address.replace("/st/", "/other/"))).status_code == 404
