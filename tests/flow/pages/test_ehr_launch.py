"""Launches by the EHR: who may use one, with whose record, and what of it reaches the app."""

from __future__ import annotations

import pytest

from gateway.errors import NotDone
from gateway.smart.server.authorization.launches import Wanted
from tests.support import smart
from tests.support.pages_scene import CONSENT, PATIENT, fields_of


async def test_ehr_launch(running):
    """A5: the handle brings patient, encounter and banner, works once, and the code carries them."""
    await running.server.person("nurse", fhir_user="Practitioner/x")
    created = await running.server.launches.create(Wanted("hapi", "app", "zed", "enc-1", need_patient_banner=False))
    assert created.url.startswith("https://app.test/launch?iss=https%3A%2F%2Fgateway.test%2Ffhir%2Fhapi&launch=")
    scope = "launch openid fhirUser offline_access user/Observation.rs patient/Patient.rs"
    browser, pkce = running.browser(), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=scope, pkce=pkce, launch=created.launch), username="nurse")
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    token = (await smart.exchange(browser.http, form)).json()
    assert (token["patient"], token["encounter"], token["need_patient_banner"], token["scope"]) == ("zed", "enc-1", False, scope)
    browser.left_to = ""
    await browser.authorize(smart.asking(scope=scope, launch=created.launch))
    assert browser.answer["error"] == "invalid_request"
    introspected = await browser.http.post("/auth/hapi/introspect", data={"token": token["access_token"]}, headers=_bearer(token))
    assert (introspected.json()["patient"], introspected.json()["encounter"]) == ("zed", "enc-1")


async def test_everything_that_the_ehr_says_of_a_launch_reaches_the_app(running):
    """HL7@168-177, 277: intent, tenant, style and fhirContext are in the token response, in that of a refresh, and in introspection."""
    items = ({"reference": "ImagingStudy/i1", "role": "https://example.org/prior"}, {"canonical": "http://example.org/Questionnaire/q|1"})
    extra = {"intent": "compare", "tenant": "north", "smart_style_url": "https://ehr.test/style.json", "fhirContext": list(items)}
    wanted = Wanted("hapi", "app", "a", "enc-1", intent="compare", tenant="north", style_url=extra["smart_style_url"], fhir_context=items)
    launched, scope = await running.server.launches.create(wanted), "launch offline_access patient/Patient.rs"
    browser, pkce = running.browser(), smart.Pkce()
    code = await smart.code_for(browser, smart.asking(scope=scope, pkce=pkce, launch=launched.launch))
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": smart.APP, "code_verifier": pkce.verifier, "client_id": "app"}
    first = (await smart.exchange(browser.http, form)).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], "client_id": "app"}
    again = (await smart.exchange(browser.http, refresh)).json()
    seen = (await browser.http.post("/auth/hapi/introspect", data={"token": again["access_token"]}, headers=_bearer(again))).json()
    context = extra | {"patient": "a", "encounter": "enc-1", "need_patient_banner": True}
    for answer in (first, again, seen):
        assert {name: answer.get(name) for name in context} == context


def _bearer(token: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {token['access_token']}"}


async def test_a_launch_belongs_to_its_user(running):
    """ATK-O15: another person signed in is asked to sign in as the one it was made for."""
    created = await running.server.launches.create(Wanted("hapi", "app", "a", username="doc"))
    browser = running.browser()
    await browser.authorize(smart.asking(scope="launch patient/Observation.rs", launch=created.launch))
    await browser.sign_in("new-doc")
    assert "started for somebody else" in browser.page.text
    await browser.sign_in("doc")
    await browser.allow()
    assert browser.answer["code"]


async def test_a_patient_cannot_use_a_launch_for_another_patient(running):
    """ATK-O15: an open launch is no way into a record that is not hers."""
    created = await running.server.launches.create(Wanted("hapi", "app", "kid"))
    for scope in ("launch patient/Observation.rs", "launch user/Observation.rs"):
        browser = running.browser()
        await browser.authorize(smart.asking(scope=scope, launch=created.launch))
        await browser.sign_in("ann")
        assert browser.answer["error"] == "access_denied"


async def test_a_launch_fixes_the_patient(running):
    """The picker's form does not change it."""
    created = await running.server.launches.create(Wanted("hapi", "app", "kid"))
    browser = running.browser()
    await browser.authorize(smart.asking(scope="launch patient/Observation.rs", launch=created.launch))
    await browser.sign_in("doc")
    handle, csrf = fields_of(browser, CONSENT)["transaction"], fields_of(browser, CONSENT)["csrf"]
    page = browser.page
    assert (await browser.post(PATIENT, [("transaction", handle), ("csrf", csrf), ("patient", "a")])).status_code == 403
    browser.page = page
    await browser.allow()
    grant = await running.granted(browser)
    assert (grant.patient, grant.context) == ("kid", "launch")


async def test_launches_grow_old(running):
    """ATK-O15: five minutes from the EHR to the authorization request."""
    created = await running.server.launches.create(Wanted("hapi", "app", "a"))
    running.server.clock.forward(300)
    browser = running.browser()
    await browser.authorize(smart.asking(scope="launch patient/Observation.rs", launch=created.launch))
    assert browser.answer["error"] == "invalid_request"


async def test_a_launch_needs_what_it_names(running):
    """Each mistake of an operator is told with its fix."""
    await running.server.public_app("no-launch", launch_uri="")
    for wanted in (
        Wanted("hapi", "nobody", "a"),
        Wanted("hapi", "no-launch", "a"),
        Wanted("hapi", "app", "Patient/a"),
        Wanted("hapi", "app", ""),
        Wanted("hapi", "app", "a", "e/1"),
        Wanted("hapi", "app", "a", intent="a\nb"),
        Wanted("hapi", "app", "a", tenant=" "),
        Wanted("hapi", "app", "a", style_url="http://ehr.test/style.json"),
        Wanted("hapi", "app", "a", fhir_context=({"reference": "Patient/other"},)),
        Wanted("hapi", "app", "a", username="nobody"),
        Wanted("hapi", "app", "a", username="far"),
        Wanted("hapi", "app", "kid", username="ann"),
    ):
        with pytest.raises(NotDone) as refused:
            await running.server.launches.create(wanted)
        assert refused.value.fix
    # For staff an EHR launch is enough: the record system chose the patient.
    assert (await running.server.launches.create(Wanted("hapi", "app", "zed", username="doc"))).launch
