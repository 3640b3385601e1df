"""What was refused is on record once, with its reason, and with nothing of what was sent but the names of clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.audit import AuditRecord
from gateway.errors import Unavailable
from gateway.smart.record import Caller
from gateway.smart.server.attempts import Attempts
from gateway.smart.server.clients.own_registration import Policy
from tests.support import smart

NEW = "quite another password"


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[smart.Smart]:
    attempts = Attempts(sends=1, of_factor=1)
    async with smart.smart_server(f"sqlite+aiosqlite:///{tmp_path}/store.db", attempts=attempts, policy=Policy("open", review=False)) as found:
        await found.public_app()
        await found.person()
        yield found


def only(server: smart.Smart, action: str, status: int) -> AuditRecord:
    (found,) = [one for one in server.records if one.action == action and one.status == status]
    assert found.request_id
    return found


ASKED = {
    "unknown": ({"client_id": "nobody"}, "client-unknown", 400, "nobody"),
    "long name": ({"client_id": "n" * 400}, "client-unknown", 400, "n" * 255),
    "elsewhere": ({"redirect_uri": "https://evil.test/cb"}, "redirect-not-registered", 400, "app"),
    "no such push": ({"request_uri": "urn:ietf:params:oauth:request_uri:none"}, "request-uri-unknown", 400, "app"),
    "too long": ({"state": "s" * 30_000}, "request-too-long", 400, ""),
    "no such type": ({"response_type": "token"}, "unsupported_response_type", 303, "app"),
    "wrong aud": ({"aud": "https://evil.test"}, "invalid_request", 303, "app"),
    "nobody there": ({"prompt": "none"}, "login_required", 303, "app"),
}


@pytest.mark.parametrize("name", ASKED)
async def test_an_authorization_that_nobody_is_asked_about(server, name):
    """An unknown app, a wrong address, a request that says what cannot be: pages and errors alike."""
    more, reason, status, client_id = ASKED[name]
    before = len(server.records)
    await smart.Browser(server.app()).authorize(smart.asking() | more)
    (record,) = server.records[before:]
    assert (record.reason, record.status, record.client_id, record.address) == (reason, status, client_id, "192.0.2.1")
    assert record.action == ("grant-refused" if name == "nobody there" else "authorize")
    assert "evil" not in repr(record)


async def test_a_request_that_cannot_be_read(server):
    """And no more of it is kept."""
    before = len(server.records)
    await smart.Browser(server.app()).http.get("/auth/hapi/authorize?client_id=%ff%fe")
    (record,) = server.records[before:]
    assert (record.action, record.reason, record.status) == ("authorize", "request-malformed", 400)


async def test_forms_that_are_not_of_this_session(server):
    """Which form, by the pattern of its address alone."""
    browser = smart.Browser(server.app())
    await browser.get("/signin", next="/apps")
    await browser.sign_in()
    for path, pattern in (("/apps", "/apps"), ("/auth/hapi/consent", "/auth/{ehr}/consent")):
        server.records.clear()
        assert (await browser.post(path, [("csrf", "wrong"), ("transaction", "t")])).status_code == 403
        (record,) = server.records
        assert (record.action, record.status, record.reason, record.detail) == ("form", 403, "form-forged", pattern)
        assert record.ehr == ("hapi" if "hapi" in path else "")


async def test_a_refusal_that_cannot_be_recorded(server):
    """Is one all the same, and says that it is ours."""

    def down(record: AuditRecord) -> None:
        raise Unavailable(reason="audit-down")

    server.append = down
    assert (await smart.Browser(server.app()).post("/signin", [("csrf", "wrong")])).status_code == 503


async def test_too_many_codes(server):
    """To a new password, or to an address: asked for, and tried."""
    account, caller = await server.accounts.named("ann"), Caller("r", "192.0.2.1")
    visitor = await server.sessions.current(await server.sessions.begin(account))
    for whom in ("ann", "nobody"):
        server.records.clear()
        for _ in range(2):
            await server.verification.forgot(whom, whom * 9, caller)
        record = only(server, "password-code", 429)
        assert (record.reason, record.user_id != "") == ("code-locked", whom == "ann")
    for _ in range(2):
        await server.verification.begin_contact(visitor, "ann@example.com", caller)
    assert only(server, "contact-code", 429).user_id == account.id
    for _ in range(2):
        await server.verification.confirm_contact(visitor, "00000000", caller)
    assert [one.reason for one in server.records if one.action == "code-refused"] == ["code-wrong", "code-locked"]
    assert "example.com" not in repr(server.records)
    await server.verification.settled()


async def test_what_a_client_may_not_do_with_its_registration(server):
    """A change that is refused, a wrong token, an unknown client: by the name in the address."""
    http = smart.Browser(server.app()).http
    told = (await http.post("/auth/hapi/register", json={"redirect_uris": [smart.APP], "token_endpoint_auth_method": "none"})).json()
    where, good = f"/auth/hapi/register/{told['client_id']}", {"Authorization": f"Bearer {told['registration_access_token']}"}
    cases = [
        ("PUT", where, good, {"client_id": told["client_id"], "redirect_uris": ["ftp://x"]}, 400, "invalid_redirect_uri"),
        ("PUT", where, {"Authorization": "Bearer wrong"}, {}, 401, "invalid_token"),
        ("GET", where, {}, None, 401, "invalid_token"),
        ("DELETE", "/auth/hapi/register/nobody", good, None, 401, "invalid_token"),
    ]
    for method, path, headers, body, status, reason in cases:
        server.records.clear()
        answer = await http.request(method, path, headers=headers, json=body)
        assert answer.status_code == status, answer.text
        (record,) = server.records
        action = {"PUT": "client-update", "GET": "client-read", "DELETE": "client-delete"}[method]
        assert (record.action, record.status, record.reason, record.client_id) == (action, status, reason, path.rpartition("/")[2])
        assert told["registration_access_token"] not in repr(record)
