"""The published checks A1 to A15 hold for our gateway on a real HAPI, over https; and each is shown to fail where a server is wrong."""

from __future__ import annotations

import contextlib
import json
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
import trustme
from joserfc import jwk, jwt
from joserfc.jwk import ECKey as KeyPair

from tests.conformance import changes, mutants, offering, ours
from tests.conformance.__main__ import clients, configured, main, parser
from tests.conformance.checks import CHECKS
from tests.conformance.config import App, Config
from tests.conformance.context import Context
from tests.conformance.forms import Forms, forms_of
from tests.conformance.jose import Key, assertion
from tests.conformance.manual import Manual
from tests.conformance.person import Asked
from tests.conformance.runner import run
from tests.support import parts

pytestmark = pytest.mark.hapi

NOT_YET: dict[str, str] = {}
"""What the gateway does not do yet: the check fails for exactly this reason."""
NO_BULK = "the CapabilityStatement lists no export of Group or Patient"
SKIPPED = {"A12.74": NO_BULK}
"""What the gateway does not offer, so that there is nothing to judge."""
WARNED: dict[str, str] = {}
"""What is a recommendation, and not followed."""
BRANDS = tuple(f"A13.{number}" for number in range(75, 81))


@pytest.fixture(scope="module")
def told(tmp_path_factory, hapi_url):
    with ours.gateway(tmp_path_factory.mktemp("conformance"), hapi_url) as config:
        yield config


@pytest.fixture(scope="module")
def person(told):
    """One for all tests: she stays signed in."""
    forms = Forms(told.people, clients(told))
    yield forms
    forms.close()


def test_every_number_has_one_check():
    """82 checks, each with a sentence and the name of what it ports."""
    assert sorted(int(check.id.partition(".")[2]) for check in CHECKS) == list(range(1, 83))
    assert all(check.published and check.sentence.endswith(".") for check in CHECKS)


def test_the_gateway_passes(told, person, record_property):
    """All pass, but for what is listed here with its reason; over TLS (HL7@231)."""
    lines: list[str] = []
    with clients(told)() as http:
        report = run(Context(told, person, http), CHECKS, lines.append)
    assert {one.check.id: one.outcome.reason for one in report.results if one.word == "fail"} == NOT_YET, "\n".join(lines)
    assert {one.check.id: one.outcome.reason for one in report.results if one.word == "skip"} == SKIPPED
    assert {one.check.id: one.outcome.reason for one in report.results if one.word == "warn"} == WARNED
    assert len(lines) == len(CHECKS)
    record_property("cases", " ".join(one.check.id for one in report.results if one.word in ("pass", "warn")))


# ---- the command line and the real person ----


def test_the_command_line(told, tmp_path, capsys):
    """Base, file and flags: one line for each check, a summary, JSON, and 1 when something failed."""
    private = KeyPair.generate_key("P-384", {"kid": "k1"}, private=True).as_dict(private=True)
    (tmp_path / "key.json").write_text(json.dumps({"keys": [private]}))
    (tmp_path / "server.toml").write_text(
        f"""
        base = "{told.base}"
        ca = "{told.ca}"
        launch_command = ["{sys.executable}", "-c", "print('{{\\"iss\\": \\"i\\", \\"launch\\": \\"l\\", \\"url\\": \\"u\\"}}')"]
        [people.patient]
        username = "ann"
        password = "{ours.PASSWORD}"
        [clients.symmetric]
        id = "suite"
        secret = "secret-of-the-suite"
        [clients.backend]
        id = "suite-backend"
        key = "key.json"
        scope = "system/*.rs"
        [clients.by_url]
        id = "suite-by-url"
        key = "key.json"
        serve = "127.0.0.1:9999/keys"
        """
    )
    file = ["--config", str(tmp_path / "server.toml"), "--json", str(tmp_path / "report.json")]
    assert main([*file, "--check", "A1.1", "--check", "A2.13", "--check", "A7.45"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "A1.1    pass  The SMART configuration is JSON at the well-known address, whatever Accept says."
    assert said[-1] == "3 checks: 2 passed, 0 failed, 0 warned, 1 skipped"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(one["id"], one["result"]) for one in report["checks"]] == [("A1.1", "pass"), ("A2.13", "pass"), ("A7.45", "skip")]
    assert report["checks"][0]["requirements"] == [30, 372, 374, 377]
    assert main([*file, "--check", "A12.69"]) == 1, "the key is not the one that is registered"
    assert "A12.69  FAIL" in capsys.readouterr().out
    options = parser().parse_args([*file, "--public", "app", "--redirect-uri", "http://127.0.0.1:9/cb"])
    config = configured(options)
    assert config.launch is not None
    assert config.launch() == {"iss": "i", "launch": "l", "url": "u"}
    assert (config.clients["public"].id, config.redirect_uri) == ("app", "http://127.0.0.1:9/cb")
    assert config.served_keys is not None
    assert (config.served_keys.port, config.served_keys.path, "by_url" in config.clients) == (9999, "/keys", False)


@pytest.mark.parametrize("arguments", [[], ["--base", "https://x", "--config", "/nowhere"], ["--base", "https://x", "--redirect-uri", "https://y"]])
def test_what_cannot_be_used_is_said(arguments, capsys):
    """2, and why."""
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("conformance: ")


def test_the_list_needs_no_server(capsys):
    """--list names every check and what it ports."""
    assert main(["--list", "--group", "tls"]) == 0
    assert "A15.82" in (said := capsys.readouterr().out)
    assert "tls_version_test" in said


def test_keys_in_files(tmp_path):
    """JWK of both kinds, and PEM with a kid: what they sign is what their public key verifies."""
    rsa = jwk.RSAKey.generate_key(2048, {"kid": "r"}, private=True)
    (tmp_path / "rsa.json").write_text(json.dumps(rsa.as_dict(private=True)))
    (tmp_path / "ec.pem").write_bytes(KeyPair.generate_key("P-384", private=True).as_pem(private=True))
    for key in (Key.read(tmp_path / "rsa.json"), Key.read(tmp_path / "ec.pem", "e")):
        signed = assertion(key, "client", "https://server.example/token")
        token = jwt.decode(signed, jwk.import_key(key.public), algorithms=["RS384", "ES384"])
        assert (token.claims["sub"], token.header["kid"]) == ("client", key.kid)
    with pytest.raises(ValueError, match="kid beside it"):
        Key.read(tmp_path / "ec.pem")


def test_a_real_person():
    """She is told what to open, by GET or by a page that posts, and comes back to the redirect URI; or Enter says that she will not."""
    port, said = parts.free_port(), []
    root = f"http://127.0.0.1:{port}"
    manual = Manual(f"{root}/callback", f"{root}/launch", out=said.append, patience=20)
    fields = {"redirect_uri": f"{root}/callback", "state": "s&1"}

    def browser(path: str) -> None:
        while len(said) < 1:
            time.sleep(0.01)
        httpx.get(f"{root}{path}", trust_env=False)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(browser, "/callback?code=c&state=s%261")
        arrived = manual.authorize(Asked("https://server.example/authorize?v=1", fields))
        assert arrived.answer == {"code": "c", "state": "s&1"}
        assert "https://server.example/authorize?v=1&redirect_uri=" in said[1]
        said.clear()
        pool.submit(browser, "/launch?iss=i&launch=l")
        assert manual.started() == {"iss": "i", "launch": "l", "url": f"{root}/launch?iss=i&launch=l"}
        said.clear()
        pool.submit(browser, "/callback?error=access_denied")
        assert manual.authorize(Asked("https://server.example/authorize", fields, "POST")).answer == {"error": "access_denied"}
        page = httpx.get(said[1].split()[-1], trust_env=False).text
    (form,) = forms_of(page)
    assert (form.action, form.method, form.fields) == ("https://server.example/authorize", "POST", list(fields.items()))
    manual.close()


# ---- the suite itself ----

EXAMPLE = Config("https://server.example/fhir", clients={"backend": App("backend")})
MUTANTS = [one.name for one in mutants.mutants(EXAMPLE)]
WRONG_BRANDS = [one.name for one in offering.wrong_brands(EXAMPLE)]
WRONG_EXPORTS = ["kick-off", "patients", "delete"]
BY_TLS = ["A2.11", "A15.82"]
ONLY_WARNS = ["A1.9"]


@pytest.fixture(scope="module")
def network(told):
    transport = httpx.HTTPTransport(verify=ssl.create_default_context(cafile=str(told.ca)))
    yield transport
    transport.close()


def judged(told, person, network, mutant, *ids: str):
    """What these checks say of a wrong server."""

    def browser() -> httpx.Client:
        return httpx.Client(transport=changes.Between(network, mutant.ask, mutant.answer), timeout=60, trust_env=False)

    twin = person.twin(browser)
    report = run(Context(mutant.config(told), twin, browser()), [check for check in CHECKS if check.id in (ids or mutant.kills)])
    return {one.check.id: (one.word, one.outcome.reason) for one in report.results}


def test_every_check_has_a_server_that_fails_it():
    """A check that cannot fail would prove nothing."""
    killed = {id_ for one in (*mutants.mutants(EXAMPLE), *offering.wrong_brands(EXAMPLE)) for id_ in one.kills}
    assert killed | {*BY_TLS, *ONLY_WARNS, "A12.74"} == {check.id for check in CHECKS}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_server_fails(told, person, network, name):
    """One thing is wrong, and each check that speaks of it fails."""
    mutant = next(one for one in mutants.mutants(told) if one.name == name)
    said = judged(told, person, network, mutant)
    assert {id_: word for id_, (word, _) in said.items()} == dict.fromkeys(mutant.kills, "fail"), said
    assert all(mutant.says in reason for _, reason in said.values())


def test_a_server_with_brands_passes(told, person, network):
    """The checks of brands judge the bundle, and not ours alone."""
    said = judged(told, person, network, changes.Mutant("brands", BRANDS, answer=offering.branded(told)))
    assert {id_: word for id_, (word, _) in said.items()} == dict.fromkeys(BRANDS, "pass"), said


@pytest.mark.parametrize("name", WRONG_BRANDS)
def test_wrong_brands_fail(told, person, network, name):
    """One thing of the bundle is wrong, and its check fails."""
    mutant = next(one for one in offering.wrong_brands(told) if one.name == name)
    assert {word for word, _ in judged(told, person, network, mutant).values()} == {"fail"}


@pytest.mark.parametrize("wrong", ["", *WRONG_EXPORTS])
def test_bulk_export(told, person, network, wrong):
    """A server with an export passes; one whose export is wrong fails."""
    server = changes.Mutant("bulk", ("A12.74",), answer=offering.Exports(told, wrong).answer)
    word, reason = judged(told, person, network, server)["A12.74"]
    assert word == ("fail" if wrong else "pass"), reason


@contextlib.contextmanager
def old_server(version: ssl.TLSVersion | None) -> Iterator[tuple[int, trustme.CA]]:
    """A TLS server that also speaks this version, on a port of its own."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    if version:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.options &= ~(ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1)
        context.minimum_version = version

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), context.wrap_socket(self.request, server_side=True):
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1], authority
        server.shutdown()


@pytest.mark.parametrize(("version", "spoken"), [(None, []), (ssl.TLSVersion.TLSv1, ["TLS 1.0", "TLS 1.1"]), (ssl.TLSVersion.TLSv1_1, ["TLS 1.1"])])
@pytest.mark.filterwarnings("ignore:ssl.*TLSv1:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:ssl.*OP_NO:DeprecationWarning")
def test_old_tls_fails(tmp_path, version, spoken):
    """A server that still speaks TLS 1.0 or 1.1 is found out; one that does not passes."""
    with old_server(version) as (port, authority), httpx.Client() as http:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        config = replace(EXAMPLE, base=f"https://localhost:{port}/fhir", ca=tmp_path / "ca.pem")
        at = Context(config, Forms({}, httpx.Client), http)
        at.once("smart", lambda: dict.fromkeys(("authorization_endpoint", "token_endpoint"), f"https://localhost:{port}/x"))
        said = {one.check.id: one.outcome.reason for one in run(at, [check for check in CHECKS if check.id in BY_TLS]).results}
    expected = "; ".join(f"localhost:{port}: {name} is spoken" for name in spoken)
    assert said == dict.fromkeys(BY_TLS, expected)


@pytest.mark.parametrize(("base", "said"), [("http://127.0.0.1:1/fhir", "skip"), ("http://server.example/fhir", "fail")])
def test_tls_of_plain_http(base, said):
    """On loopback there is nothing to encrypt; anywhere else there is."""
    with httpx.Client() as http:
        at = Context(replace(EXAMPLE, base=base), Forms({}, httpx.Client), http)
        at.once("smart", lambda: dict.fromkeys(("authorization_endpoint", "token_endpoint"), f"{base}/x"))
        report = run(at, [check for check in CHECKS if check.id in BY_TLS])
    assert report.ids(said) == BY_TLS
