"""Refresh tokens: rotation, reuse, disputes, and what they never widen."""

from __future__ import annotations

import pytest

from tests.support import smart
from tests.support.token_scene import BASIC, SCOPE, error


async def test_refresh_rotates_and_reuse_ends_the_family(running):
    """ATK-O13, AUTHLIB-E7: an old refresh token is proof of theft."""
    first = await running.tokens()
    second = (await running.post({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})).json()
    assert await running.counts(second["access_token"])
    reused = await running.post({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]})
    assert (reused.status_code, error(reused)) == (400, "invalid_grant")
    assert not await running.counts(second["access_token"])
    assert error(await running.post({"grant_type": "refresh_token", "refresh_token": second["refresh_token"]})) == "invalid_grant"


async def test_an_answer_that_was_lost_is_no_theft(running):
    """ATK-O13: whoever never used what replaced a token may have lost the answer; the token is over, and the family lives."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    lost = (await running.post(form)).json()
    for _ in range(2):
        assert error(await running.post(form)) == "invalid_grant"
    assert await running.counts(first["access_token"])
    second = (await running.post(form | {"refresh_token": lost["refresh_token"]})).json()  # it was not lost after all
    assert await running.counts(second["access_token"])
    assert error(await running.post(form)) == "invalid_grant"
    assert not await running.counts(second["access_token"])


@pytest.mark.parametrize("used", ["access_token", "refresh_token"])
@pytest.mark.parametrize("seconds", [60, 61])
async def test_a_token_that_came_again_before_its_successor_was_used(running, used, seconds):
    """ATK-O13: a thief who lets the owner rotate first, or the owner after a thief did. Later than a retry, the next use ends the family."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await running.post(form)).json()
    running.server.clock.forward(seconds)
    for _ in range(2):
        assert error(await running.post(form)) == "invalid_grant"
    assert running.server.records[-1].detail == "a replaced token came again"
    assert await running.counts(first["access_token"])  # nobody who lost an answer is harmed by it
    if used == "access_token":
        assert await running.counts(second["access_token"]) is (seconds == 60)
    else:
        response = await running.post(form | {"refresh_token": second["refresh_token"]})
        assert response.status_code == (200 if seconds == 60 else 400)
    assert await running.counts(first["access_token"]) is (seconds == 60)
    ended = [one for one in running.server.records if "family-revoked" in one.detail]
    assert [one.patients for one in ended] == ([] if seconds == 60 else [("a",)])


@pytest.mark.parametrize("seconds", [0, 61])
async def test_to_let_an_app_in_again_ends_what_nobody_holds_honestly(running, seconds):
    """ATK-O13: a thief rotated, and the owner, who got invalid_grant for it, connects the app again. Families at peace go on."""
    first, peaceful = await running.tokens(), await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    stolen = (await running.post(form)).json()
    running.server.clock.forward(seconds)
    assert error(await running.post(form)) == "invalid_grant"
    again = await running.tokens()
    assert not await running.counts(stolen["access_token"])
    assert error(await running.post(form | {"refresh_token": stolen["refresh_token"]})) == "invalid_grant"
    assert await running.counts(peaceful["access_token"])
    assert await running.counts(again["access_token"])


@pytest.mark.parametrize("asked", ["about it", "by it"])
@pytest.mark.parametrize("disputed", [False, True])
async def test_a_service_that_asks_about_a_token_has_seen_it(running, asked, disputed):
    """ATK-O13, RFC 7662: who uses a token at another server than this one shows as well that the answer arrived, and whose hands it is in."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await running.post(form)).json()
    running.server.clock.forward(61)
    if disputed:
        assert error(await running.post(form)) == "invalid_grant"
    given = {"auth": BASIC} if asked == "about it" else {"headers": {"Authorization": f"Bearer {second['access_token']}"}}
    told = await running.http.post("/auth/hapi/introspect", data={"token": second["access_token"]}, **given)
    assert (told.status_code == 200 and told.json()["active"]) is not disputed
    if not disputed:
        assert error(await running.post(form)) == "invalid_grant"
    assert not await running.counts(first["access_token"])


@pytest.mark.parametrize("used", ["access_token", "refresh_token"])
async def test_the_first_use_of_a_successor_is_proof(running, used):
    """ATK-O13: by the access token that came with it or by the next refresh, the answer had arrived; after that a reuse is theft."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await running.post(form)).json()
    if used == "access_token":
        assert await running.counts(second["access_token"])
    else:
        assert (await running.post(form | {"refresh_token": second["refresh_token"]})).status_code == 200
    assert error(await running.post(form)) == "invalid_grant"
    assert not await running.counts(second["access_token"])
    assert not await running.counts(first["access_token"])


@pytest.mark.parametrize(
    "scope", ["patient/Observation.cruds", "patient/*.rs", "patient/Observation.rs patient/Condition.rs", "user/Observation.rs", "email"]
)
async def test_refresh_never_widens(running, scope):
    """ATK-O13, AUTHLIB-E7: scope is compared as SMART scopes are, and the token is still good afterwards."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    assert error(await running.post(form | {"scope": scope})) == "invalid_scope"
    narrowed = (await running.post(form | {"scope": "patient/Observation.s"})).json()
    assert narrowed["scope"] == "patient/Observation.s"
    again = (await running.post({"grant_type": "refresh_token", "refresh_token": narrowed["refresh_token"]})).json()
    assert again["scope"] == SCOPE


async def test_refresh_tokens_are_bound_and_of_one_kind(running):
    """ATK-O13, HL7@104: another client's, an access token, garbage, without the secret."""
    first = await running.tokens()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    assert error(await running.post(form, auth=("other-web", "secret-of-other-web"))) == "invalid_grant"
    assert error(await running.post(form | {"client_id": "web"}, auth=None)) == "invalid_client"
    assert error(await running.post(form, auth=None)) == "invalid_client"
    assert error(await running.post(form | {"refresh_token": first["access_token"]})) == "invalid_grant"
    assert error(await running.post(form | {"refresh_token": "random"})) == "invalid_grant"
    assert not await running.counts(first["refresh_token"])
    assert not await running.counts(first["id_token"])


async def test_public_clients_may_refresh_without_their_name(running):
    """B: fhirclient-js sends no client_id; the token itself names a public client."""
    token = await smart.launch(running.browser, SCOPE)
    response = await running.post({"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}, auth=None)
    assert response.status_code == 200


async def test_no_refresh_token_without_offline_access(running):
    """HL7: access ends with the token."""
    token = await smart.launch(running.browser, "launch/patient patient/Observation.rs")
    assert "refresh_token" not in token
    assert "id_token" not in token
