"""A5: EHR launch, with the authorization request by POST."""

from __future__ import annotations

from tests.conformance.check import Fail, Group, Outcome, Skip, Warn, verdict
from tests.conformance.checks import openid, refresh
from tests.conformance.checks.standalone import granted
from tests.conformance.context import Context, brief, json_of, parameters, text

GROUP = Group("ehr_launch")


@GROUP.check("A5.36", "smart_app_launch, smart_launch_received")
def started(at: Context) -> Outcome:
    """The EHR sends the browser to the app's launch URL, with iss as it was typed and an opaque launch."""
    found = at.launch("ehr").started
    came = parameters(found.get("url", ""))
    problems = [f"{name} is {came.get(name)!r}" for name in ("iss", "launch") if not came.get(name) or came[name] != found.get(name)]
    problems += [f"iss is not {at.config.base}"] * (came.get("iss") != at.config.base)
    elsewhere = found.get("url", "").partition("?")[0] != at.config.launch_uri.partition("?")[0]
    return verdict(problems + [f"it goes to {found.get('url', '').partition('?')[0]}"] * elsewhere)


@GROUP.check("A5.37", "smart_ehr_launch_stu2_2")
def authorized(at: Context) -> Outcome:
    """An authorization by POST with launch and user/ scopes gives tokens."""
    launched = at.launch("ehr")
    problems = ["state is not the same"] * (launched.arrived.answer.get("state") != launched.asked["state"])
    return verdict(problems + ["there is no access_token"] * (not launched.tokens.get("access_token")))


@GROUP.check("A5.38", "g10_smart_scopes (user)")
def scopes(at: Context) -> Outcome:
    """All that was asked for is granted, at the level user/."""
    return granted(at.launch("ehr"), level="user", context="openid fhirUser launch offline_access")


@GROUP.check("A5.39", "g10_encounter_context")
def encounter(at: Context) -> Outcome:
    """The encounter in context came with the token, and can be read."""
    at.offered("context-ehr-encounter")
    launched = at.launch("ehr")
    answer = at.fhir(f"Encounter/{text(launched.tokens, 'encounter')}", launched.access)
    return verdict([f"{answer.status_code} {brief(answer)}"] * (answer.status_code != 200))


@GROUP.check("A5.40", "g10_smart_style_url")
def style(at: Context) -> Outcome:
    """smart_style_url came with the token, and gives JSON to anybody."""
    at.offered("context-style")
    answer = at.get(text(at.launch("ehr").tokens, "smart_style_url"))
    if answer.status_code != 200:
        return verdict([f"{answer.status_code}"])
    return verdict(["it is empty"] * (not json_of(answer)))


@GROUP.check("A5.41", "g10_smart_need_patient_banner")
def banner(at: Context) -> Outcome:
    """need_patient_banner came with the token, true or false."""
    at.offered("context-banner")
    found = at.launch("ehr").tokens.get("need_patient_banner")
    return verdict([f"it is {found!r}"] * (not isinstance(found, bool)))


@GROUP.check("A5.42", "g10 group 3: OpenID Connect and refresh")
def again(at: Context) -> Outcome:
    """OpenID Connect (A3) and refresh (A4) hold for the EHR launch too."""
    outcomes = {check.id: check.run(at, on="ehr") for check in (*openid.GROUP.checks, *refresh.GROUP.checks)}
    reasons = {kind: [f"{id_}: {one.reason}" for id_, one in outcomes.items() if isinstance(one, kind)] for kind in (Fail, Warn, Skip)}
    return verdict(reasons[Fail], reasons[Warn] + reasons[Skip])
