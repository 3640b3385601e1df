"""The consent page, the picker and what was allowed: what a person sees, chooses and takes back."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

import pytest

from gateway.errors import Unauthenticated
from gateway.smart.server.authorization.consent import CATEGORIES
from gateway.smart.server.lifetimes import Lifetimes
from gateway.store import oauth as rows
from gateway.store import people
from tests.support import smart
from tests.support.pages_scene import CONSENT, PATIENT, Running, fields_of, no_code


async def test_consent_counts_once(running):
    """ATK-O17: the form sent again gives no second code."""
    browser = await running.at_consent()
    page = browser.page
    await browser.allow()
    assert browser.answer["code"]
    browser.page, browser.left_to = page, ""
    again = await browser.allow()
    assert again.status_code == 400
    no_code(browser)


async def test_denial_goes_back(running):
    """access_denied with the state; Cancel on the sign-in page says the same."""
    browser = await running.at_consent()
    await browser.deny()
    assert (browser.answer["error"], browser.answer["state"], browser.answer["iss"]) == ("access_denied", "st-1", smart.BASE)
    browser = running.browser()
    await browser.authorize(smart.asking())
    await browser.submit("/auth/hapi/cancel")
    assert browser.answer["error"] == "access_denied"


async def test_nothing_ticked_is_a_denial(running):
    """An app that would get nothing hears access_denied."""
    browser = await running.at_consent()
    await browser.allow(["launch/patient"])
    assert browser.answer["error"] == "access_denied"


@pytest.mark.parametrize(
    "scope",
    ["patient/Observation.cruds", "system/*.cruds", "patient/Condition.rs", "patient/Observation.rs?category=http://x|y", "launch", "<script>"],
)
async def test_a_tampered_consent_is_refused(running, scope):
    """ATK-O16: nothing beyond the request is ever granted."""
    browser = await running.at_consent()
    refused = await browser.allow(["launch/patient", "patient/Observation.rs", scope])
    assert refused.status_code == 403
    no_code(browser)


async def test_consent_grants_what_is_ticked(running):
    """A6.43: the token says so."""
    scope = "launch/patient patient/Observation.rs patient/Condition.rs patient/Patient.r"
    token = await _token(running, scope, ["launch/patient", "patient/Patient.r"])
    assert token["scope"] == "launch/patient patient/Patient.r"
    assert token["patient"] == "a"


async def test_categories_become_granular_scopes(running):
    """A10.60: chosen sub-choices come back instead of the whole."""
    laboratory, problems = CATEGORIES["Observation"]["Laboratory"], CATEGORIES["Condition"]["Problem List"]
    scope = "launch/patient patient/Condition.rs patient/Observation.rs patient/Patient.rs"
    parts = [f"patient/Condition.rs?category={problems}", f"patient/Observation.rs?category={laboratory}"]
    token = await _token(running, scope, [*scope.split(), *parts])
    assert token["scope"].split() == ["launch/patient", *parts, "patient/Patient.rs"]


async def _token(running: Running, scope: str, ticked: list[str]) -> dict[str, str]:
    browser, pkce = running.browser(), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=scope, pkce=pkce), scopes=ticked)
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    return (await smart.exchange(browser.http, form)).json()


async def test_all_kinds_are_listed_and_can_be_limited(running):
    """A10.57, A10.60: what a wildcard stands for, in words; chosen types and categories come back, and nothing whole beside them."""
    page = (await running.at_consent("launch/patient patient/*.rs")).page.text
    assert "test results and measurements;" in page
    assert "Test results and measurements: only Laboratory" in page
    granular = f"patient/Observation.rs?category={CATEGORIES['Observation']['Laboratory']}"
    boxes = [f"patient/*.rs>{one}" for one in (granular, "patient/Observation.rs", "patient/Immunization.rs")]
    token = await _token(running, "launch/patient patient/*.rs", ["launch/patient", "patient/*.rs", *boxes])
    assert set(token["scope"].split()) == {"launch/patient", "patient/Immunization.rs", granular}


async def test_more_boxes_than_machines_may_send(running):
    """An app may ask for much, and for each scope a box is ticked."""
    scopes = [f"patient/{name}.{letters}" for name in smart.TYPES for letters in ("r", "s", "c", "rs", "ru", "rus", "cruds")]
    assert len(scopes) > 64
    browser = await running.at_consent(" ".join(["launch/patient", *scopes]))
    await browser.allow()
    assert browser.answer["code"]


async def test_the_consent_page_says_what_it_is_about(running):
    """A17: one switch for each scope in words, whose record, and that access goes on when it does."""
    browser = await running.at_consent("launch/patient patient/Observation.rs patient/Patient.r offline_access openid")
    text = browser.page.text
    boxes = smart.Form(text).boxes
    assert [value for name, value in boxes if name == "scope" and "?" not in value] == [
        "patient/Observation.rs",
        "patient/Patient.r",
        "launch/patient",
        "offline_access",
        "openid",
    ]
    assert len([value for _, value in boxes if "?" in value]) == 6
    assert "while you are not signed in" in text
    until = running.server.clock() + timedelta(seconds=Lifetimes().refresh)
    assert f"until {until.day} {until:%B %Y}" in text
    assert "Ann" in text
    without = await running.at_consent()
    assert "while you are not signed in" not in without.page.text


async def test_what_an_app_calls_itself_is_text(running):
    """ATK-O16: XSS by client_name, state and scope."""
    await running.server.public_app("xss", client_name="<script>alert(1)</script>")
    browser = running.browser()
    state = '"><script>alert(2)</script>'
    await browser.authorize(smart.asking("xss", f"patient/Observation.rs?category=<script>|x launch/patient {state}", state=state))
    assert "<script" not in browser.page.text
    await browser.sign_in()
    assert browser.page.request.url.path == CONSENT
    assert "<script" not in browser.page.text
    await browser.deny()
    assert browser.answer["state"] == state


async def test_picker_for_several_patients(running):
    """A patient scope needs a patient in context; she chooses whose record it is, and may choose again."""
    browser = await running.at_consent(username="mum")
    assert browser.page.request.url.path == PATIENT
    assert [value for _, value in smart.Form(browser.page.text).boxes] == ["m", "kid", "kid2"]
    await browser.pick("kid2")
    assert "Record of kid2" in browser.page.text
    await browser.get(f"{PATIENT}?{urlencode({'transaction': fields_of(browser, CONSENT)['transaction']})}")
    await browser.pick("kid")
    await browser.allow()
    grant = await running.granted(browser)
    assert (grant.patient, grant.context) == ("kid", "picked")


@pytest.mark.parametrize("patient", ["a", "", "kid,a", "../a", "Patient/kid"])
async def test_only_her_patients_can_be_picked(running, patient):
    """ATK-O16: a foreign patient in the form."""
    browser = await running.at_consent(username="mum")
    assert (await browser.pick(patient)).status_code == 403
    no_code(browser)


async def test_the_patient_is_checked_again_at_the_end(running):
    """ATK-O16, F23: the relationship ended between picker and consent."""
    browser = await running.at_consent(username="mum")
    await browser.pick("kid")
    account = await running.server.accounts.named("mum")
    async with running.server.database.write() as connection:
        await people.set_listed(connection, account.id, ())
    refused = await browser.allow()
    assert refused.status_code == 403
    no_code(browser)


async def test_staff_picks_from_the_list(running):
    """A practitioner chooses among listed patients, and without any hears access_denied."""
    browser = await running.at_consent(username="doc")
    assert [value for _, value in smart.Form(browser.page.text).boxes] == ["a", "kid"]
    browser = await running.at_consent(username="new-doc")
    assert browser.answer["error"] == "access_denied"


async def test_no_patient_is_asked_for_when_none_is_needed(running):
    """user/ scopes and identity alone need no patient."""
    browser = await running.at_consent("openid user/Observation.rs", username="mum")
    assert browser.page.request.url.path == CONSENT
    await browser.allow()
    assert browser.answer["code"]


async def test_transactions_grow_old(running):
    """After ten minutes the person starts again from the app."""
    browser = await running.at_consent()
    running.server.clock.forward(600)
    refused = await browser.allow()
    assert refused.status_code == 400
    no_code(browser)


async def test_a_client_disabled_meanwhile_gets_nothing(running):
    """The request is judged again at the end."""
    browser = await running.at_consent()
    async with running.server.database.write() as connection:
        await rows.disable_client(connection, "app", running.server.clock())
    assert (await browser.allow()).status_code == 400
    no_code(browser)


async def test_a_person_takes_access_back_on_a_page(running):
    """A8.48: she sees what each app may do, and one button ends it; nobody else's is ended by a made-up form."""
    browser = running.browser()
    token = await smart.launch(browser, f"launch/patient offline_access patient/Observation.rs?category={CATEGORIES['Observation']['Survey']}")
    page = await browser.get("/apps")
    assert "app &amp; Co" in page.text
    assert "The record of Ann" in page.text
    assert "See test results and measurements: only survey" in page.text
    stranger = running.browser()
    await stranger.get("/apps")
    assert stranger.page.request.url.path == "/signin"
    await stranger.sign_in("mum")
    assert "No app has access" in stranger.page.text
    grant = fields_of(browser, "/apps")["grant"]
    await stranger.get("/signout")
    csrf = fields_of(stranger, "/signout")["csrf"]
    await stranger.post("/apps", [("grant", grant), ("csrf", csrf)])
    assert "was taken back" not in stranger.page.text
    assert (await browser.post("/apps", [("grant", grant), ("csrf", "wrong")])).status_code == 403
    assert await running.server.authenticator.principal("hapi", [f"Bearer {token['access_token']}"])
    browser.page = page
    await browser.submit("/apps")
    assert "was taken back" in browser.page.text
    assert "No app has access" in browser.page.text
    with pytest.raises(Unauthenticated):
        await running.server.authenticator.principal("hapi", [f"Bearer {token['access_token']}"])


async def test_only_access_that_counts_is_listed(running):
    """An hour after the last token of an app without offline access there is nothing left to take back."""
    await smart.launch(running.browser(), "launch/patient patient/Observation.rs")
    account = await running.server.accounts.named("ann")
    (connected,) = await running.server.grants.of(account)
    assert not connected.offline
    running.server.clock.forward(3600)
    assert await running.server.grants.of(account) == ()
