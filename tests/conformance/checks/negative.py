"""A9: launches that must come to nothing."""

from __future__ import annotations

import secrets
from dataclasses import replace

from tests.conformance.check import Group, Outcome, Skipped, verdict
from tests.conformance.checks.standalone import all_of
from tests.conformance.context import Context
from tests.conformance.launches import LAUNCHES, Wish

GROUP = Group("negative")
_SHORT = Wish("launch/patient openid fhirUser patient/Patient.rs")


@GROUP.check("A9.49", "g10_smart_invalid_aud")
def audience(at: Context) -> Outcome:
    """A request meant for another server gets no code."""
    wish = replace(_SHORT, more={"aud": "https://inferno.healthit.gov/invalid_aud"})
    return verdict(["a code came back"] * ("code" in at.begin(wish).arrived.answer))


@GROUP.check("A9.50", "g10_smart_invalid_token_request_stu2")
def token_request(at: Context) -> Outcome:
    """An unknown code is refused by 400, an unknown client by 400 or 401."""
    launched = at.begin(_SHORT)
    unknown_code = at.ask_token(launched.app, at.code_form(launched, code="BAD_CODE"))
    unknown_client = at.ask_token(None, at.code_form(launched), auth=("BAD_CLIENT_ID", launched.app.secret))
    problems = [f"BAD_CODE: {unknown_code.status_code}"] * (unknown_code.status_code != 400)
    return verdict(problems + [f"BAD_CLIENT_ID: {unknown_client.status_code}"] * (unknown_client.status_code not in (400, 401)))


@GROUP.check("A9.51", "g10_smart_invalid_pkce_code_verifier_group (none)")
def no_verifier(at: Context) -> Outcome:
    """Without code_verifier there is no token."""
    return _refused_with(at, None)


@GROUP.check("A9.52", "g10_smart_invalid_pkce_code_verifier_group (blank)")
def blank_verifier(at: Context) -> Outcome:
    """With a blank code_verifier there is none."""
    return _refused_with(at, "")


@GROUP.check("A9.53", "g10_smart_invalid_pkce_code_verifier_group (wrong)")
def wrong_verifier(at: Context) -> Outcome:
    """With another code_verifier there is none."""
    return _refused_with(at, secrets.token_urlsafe(48))


@GROUP.check("A9.54", "g10_smart_invalid_pkce_code_verifier_group (plain)")
def plain_verifier(at: Context) -> Outcome:
    """The challenge is no verifier: not when S256 was asked for, and plain cannot be asked for, nor PKCE be left out."""
    refused = _refused_with(at, "challenge")
    asked = {
        "plain": replace(_SHORT, more={"code_challenge": secrets.token_urlsafe(48), "code_challenge_method": "plain"}),
        "no method": replace(_SHORT, more={"code_challenge_method": None}),
        "no challenge": replace(_SHORT, more={"code_challenge": None, "code_challenge_method": None}),
    }
    downgraded = [f"{name} got a code" for name, wish in asked.items() if "code" in at.begin(wish).arrived.answer]
    return all_of(refused, verdict(downgraded))


@GROUP.check("A9.55", "(own: launch values)")
def launch_values(at: Context) -> Outcome:
    """A launch that is unknown, was used, or belongs to another app gets no code."""
    used = at.launch("ehr").asked["launch"]
    ehr = replace(LAUNCHES["ehr-patient"], ehr=False)
    tried = {"unknown": (ehr, secrets.token_urlsafe(32)), "used": (ehr, used)}
    if "public" in at.config.clients:
        tried["another app's"] = (replace(ehr, client="public"), at.start()["launch"])
    arrived = {name: at.begin(replace(wish, more={"launch": value})).arrived for name, (wish, value) in tried.items()}
    return verdict(f"{name}: a code came back" for name, one in arrived.items() if "code" in one.answer)


def _refused_with(at: Context, verifier: str | None) -> Outcome:
    """A launch of its own, whose code is exchanged with this verifier."""
    if "S256" not in (at.smart.get("code_challenge_methods_supported") or ()):
        raise Skipped("the server does not list S256")
    launched = at.begin(_SHORT)
    sent = launched.asked["code_challenge"] if verifier == "challenge" else verifier
    answer = at.ask_token(launched.app, at.code_form(launched, code_verifier=sent))
    return verdict([f"the token endpoint answered {answer.status_code}"] * (answer.status_code not in (400, 401)))
