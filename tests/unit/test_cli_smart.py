"""`gateway doctor`, `gateway ehr check` and `gateway ehr key` where the EHR needs SMART Backend Services."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from joserfc import jwk

from gateway.cli import doctor, main
from gateway.config import EhrSettings, Settings
from tests.support.smart_ehr import Reply, SmartEhr
from tests.support.threaded_server import served


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """A key of the gateway's, made by its own command, and what the command said to register."""
    path = tmp_path_factory.mktemp("key") / "key.json"
    made = CliRunner().invoke(main, ["ehr", "key", str(path)])
    assert made.exit_code == 0, made.output
    return path, json.loads(made.stdout)


@pytest.fixture(scope="module")
def server(key):
    smart = SmartEhr(key[1]["keys"])
    with served(smart) as url:
        yield smart, url


@pytest.fixture
def smart(server):
    smart, url = server
    smart.__init__(smart.keys, token_endpoint=f"{url}/token")
    return smart


@pytest.fixture
def settings(server, smart, key):
    def make(**more):
        given = {"client_id": "gateway", "key_file": key[0], "scope": "system/*.cruds", "token_loopback": True, "timeout": 2.0} | more
        return EhrSettings("st", f"{server[1]}/fhir", auth="smart-backend", **given)

    return make


def test_a_token_for_all_that_is_asked_for_is_well(settings):
    """And the EHR is reached with it."""
    found = doctor.signs_in(settings())
    assert (found.part, found.state, found.found) == ("ehr st sign-in", "ok", "a token for 300 s, all scopes granted")
    assert doctor.reach(settings()).state == "ok"
    assert doctor.door(settings()).found == "strangers get 401"


def test_scopes_that_are_not_granted_are_named(settings, smart):
    """With their letters."""
    smart.scope = "system/*.rs"
    found = doctor.signs_in(settings())
    assert found.state == "warning"
    assert "without system/*.cud" in found.found
    assert "scope" in found.fix


def test_a_configuration_that_says_otherwise_is_a_warning(settings, smart):
    """The token came all the same."""
    smart.more = {"token_endpoint_auth_methods_supported": ["client_secret_basic"]}
    found = doctor.signs_in(settings())
    assert found.state == "warning"
    assert "does not list private_key_jwt" in found.found


TROUBLES = {
    "unknown": (Reply(400, {"error": "invalid_client"}), "invalid_client", "register the public half"),
    "scope": (Reply(400, {"error": "invalid_scope"}), "invalid_scope", "set scope"),
    "grant": (Reply(400, {"error": "unauthorized_client"}), "client_credentials", "operator"),
    "words": (Reply(400, {"error": "Ms. Okafor"}), "without a code", "operator"),
    "pause": (Reply(429, headers={"Retry-After": "9"}), "429", "wait 9 seconds"),
    "down": (Reply(500), "does not work now", "network"),
    "HTML": (Reply(200, b"<html>"), "no bearer token", "proxy"),
}


@pytest.mark.parametrize(("reply", "words", "fix"), TROUBLES.values(), ids=TROUBLES)
def test_each_trouble_says_what_to_do(settings, smart, reply, words, fix):
    """The reason in words of ours, and the fix."""
    smart.replies = [reply]
    found = doctor.signs_in(settings())
    assert found.state == "failed"
    assert words in found.found
    assert fix in found.fix
    assert "Okafor" not in found.found + found.fix


def test_a_key_or_an_endpoint_that_cannot_be_used_says_so(settings, smart, tmp_path):
    """Before anything is sent."""
    (tmp_path / "bad.json").write_text("{}")
    assert "cannot be used" in doctor.signs_in(settings(key_file=tmp_path / "bad.json")).found
    assert "token_loopback" in doctor.signs_in(settings(token_loopback=False)).fix
    assert smart.asked == []
    assert doctor.reach(settings(token_loopback=False)).state == "failed"


def test_one_that_does_not_answer_says_so(settings, smart):
    """In time."""
    smart.replies = [Reply(delay=1)]
    assert "in time" in doctor.signs_in(settings(timeout=0.2)).found


def test_the_check_of_an_ehr_tells_of_its_sign_in(settings, smart, tmp_path):
    """By name, as the settings have it; for programs without the token."""
    ehr = settings()
    (tmp_path / "gateway.toml").write_text(
        f'[ehr.st]\nurl = "{ehr.url}"\nauth = "smart-backend"\nclient_id = "gateway"\nkey_file = "{ehr.key_file}"\n'
        'scope = "system/*.cruds"\ntoken_loopback = true\n'
    )
    smart.scope = "system/*.rs"
    said = CliRunner().invoke(main, ["ehr", "check", "st", "--config", str(tmp_path / "gateway.toml")])
    assert said.exit_code == 0, said.output
    assert "sign-in: a token for 300 s, without system/*.cud. Fix:" in said.output
    told = CliRunner().invoke(main, ["ehr", "check", "st", "--config", str(tmp_path / "gateway.toml"), "--json"])
    assert json.loads(told.output)["sign_in"]["missing"] == ["system/*.cud"]
    assert "token-" not in told.output


def test_an_ehr_that_persons_connect_to_is_judged_by_its_configuration(settings, server, smart):
    """No token is asked for: nobody is there to sign in."""
    url = server[1]
    ehr = replace(settings(), auth="smart", key_file=None, scope="launch/patient openid fhirUser offline_access patient/*.rs")
    gateway = Settings(public_url="https://gateway.test")
    assert doctor.persons_connect(gateway, ehr).state == "failed"
    smart.more = {
        "authorization_endpoint": f"{url}/authorize",
        "issuer": f"{url}/fhir",
        "jwks_uri": f"{url}/jwks",
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["launch-standalone", "sso-openid-connect", "permission-offline"],
    }
    found = doctor.persons_connect(gateway, ehr)
    assert found.state == "ok"
    assert "https://gateway.test/auth/st/upstream/callback" in found.found
    smart.more |= {"capabilities": ["launch-standalone"], "code_challenge_methods_supported": ["plain"], "jwks_uri": ""}
    found = doctor.persons_connect(gateway, ehr)
    assert found.state == "warning"
    for lack in ("S256", "permission-offline", "sso-openid-connect", "jwks_uri"):
        assert lack in found.found
    assert smart.asked == []


def test_a_key_is_made_once_and_only_its_public_half_is_shown(key, tmp_path):
    """Readable by its owner; asked again, the same is printed; PEM needs its kid."""
    path, shown = key
    assert path.stat().st_mode & 0o077 == 0
    assert "d" not in shown["keys"][0]
    again = CliRunner().invoke(main, ["ehr", "key", str(path)])
    assert json.loads(again.stdout) == shown
    pem = tmp_path / "key.pem"
    pem.write_bytes(jwk.RSAKey.generate_key(2048, private=True).as_pem(private=True))
    assert CliRunner().invoke(main, ["ehr", "key", str(pem)]).exit_code != 0
    printed = json.loads(CliRunner().invoke(main, ["ehr", "key", str(pem), "--kid", "r", "--json"]).output)
    assert (printed["keys"][0]["kid"], printed["keys"][0]["alg"]) == ("r", "RS384")
    assert CliRunner().invoke(main, ["ehr", "key", str(tmp_path / "no" / "key.json")]).exit_code != 0
