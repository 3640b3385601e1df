"""One EHR with two `gateway serve` processes before it: one store, one Valkey, real HTTP. For the suite of the three jobs."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx

from gateway import config, local
from gateway.sandbox import embedded
from gateway.sandbox.double import Double
from gateway.sandbox.double import served as double_served
from gateway.sandbox.forms import forms
from gateway.store.oauth_rows import ListedPatient
from tests.support import parts, smart
from tests.support.jobs_record import Record, encode
from tests.support.processes import Served, serving

EHR, OTHER = "ehr", "other"
"""Two EHRs of one gateway, by name. Both lead to the same server: what keeps them apart is the gateway."""
FHIR = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
PASSWORD = "correct horse battery"
APP = "https://app.test/cb"
SECRET = "secret-of-the-app"
LOGGED_NEVER = re.compile(r"Bearer [\w.-]|code_verifier=|password|Traceback \(most recent", re.IGNORECASE)


@dataclass
class Upstream:
    """The EHR itself, asked without the gateway."""

    kind: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    double: Double | None = None

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, headers={**FHIR, **self.headers, "Cache-Control": "no-cache"}, timeout=60, trust_env=False)

    def raw(self, target: str) -> bytes:
        """The bytes of `Type/id`."""
        found = self.http.get(f"/{target}")
        assert found.status_code == 200, found.text
        return found.content

    def get(self, target: str) -> dict[str, Any]:
        return json.loads(self.raw(target))

    def version(self, target: str) -> str:
        return self.get(target)["meta"]["versionId"]

    def exists(self, target: str) -> bool:
        return self.http.get(f"/{target}").status_code == 200

    def put(self, resource: Mapping[str, Any]) -> None:
        """Change it behind the gateway's back, as staff do."""
        answer = self.http.put(f"/{resource['resourceType']}/{resource['id']}", content=encode(resource))
        assert answer.status_code in (200, 201), answer.text

    def all(self, kind: str, patient: str, **more: str) -> list[dict[str, Any]]:
        """What the EHR has of this type for this patient, told fresh."""
        found = self.http.get(f"/{kind}", params={"patient": patient, "_count": "500", **more})
        assert found.status_code == 200, found.text
        return [one["resource"] for one in found.json().get("entry", []) if one["resource"]["resourceType"] == kind]

    def load(self, record: Record) -> None:
        entries = [{"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}} for one in record.resources()]
        answer = self.http.post("", content=encode({"resourceType": "Bundle", "type": "transaction", "entry": entries}))
        assert answer.status_code == 200, answer.text


@contextmanager
def upstream(kind: str, folder: Path, hapi_url: str = "") -> Iterator[Upstream]:
    """The real HAPI, the embedded EHR, or the double on a socket."""
    if kind == "hapi":
        yield Upstream(kind, hapi_url)
    elif kind == "embedded":
        with embedded.running(folder / "embedded") as running:
            yield Upstream(kind, running.base_url, running.headers)
    else:
        double = Double()
        with double_served(double) as url:
            yield Upstream(kind, url, double=double)


class Visitor:
    """A browser without JavaScript: cookies, forms, redirects within the gateway."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls
        self.http = httpx.Client(base_url=urls[0], timeout=60, trust_env=False)
        self.left_to = ""

    def get(self, path: str, *, status: int = 200, at: int = 0) -> httpx.Response:
        """A page, from one of the processes."""
        page = self._follow(self.http.get(urljoin(self.urls[at], path)))
        assert page.status_code == status, f"{path}: {page.status_code} {text_of(page.text)[:400]}"
        return page

    def filled(self, page: httpx.Response, path: str, **given: str | list[str]) -> tuple[str, bytes]:
        """Where the page's form goes that ends in `path`, and its body."""
        form = next((one for one in forms(page.text) if one.action.partition("?")[0].endswith(path)), None)
        assert form is not None, f"no form to {path}: {text_of(page.text)[:400]}"
        fields = form.filled() | {name: [value] if isinstance(value, str) else value for name, value in given.items()}
        return form.action, urlencode(fields, doseq=True).encode()

    def post(self, path: str, body: bytes, *, at: int = 0) -> httpx.Response:
        """Send a form and go where it leads."""
        sent = self.http.post(urljoin(self.urls[at], path), content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
        return self._follow(sent)

    def send(self, page: httpx.Response, path: str, **given: str | list[str]) -> httpx.Response:
        return self.post(*self.filled(page, path, **given))

    def sign_in(self, username: str, password: str = PASSWORD) -> httpx.Response:
        return self.send(self.get("/portal/"), "/signin", username=username, password=password)

    def _follow(self, response: httpx.Response) -> httpx.Response:
        for _ in range(10):
            if not response.is_redirect:
                return response
            target = urljoin(str(response.request.url), response.headers["location"])
            if not target.startswith(tuple(f"{url}/" for url in self.urls)):
                self.left_to = target
                return response
            response = self.http.get(target)
        raise AssertionError("redirected in circles")

    @property
    def answer(self) -> dict[str, str]:
        """The parameters with which the browser went back to the app."""
        return dict(parse_qsl(urlsplit(self.left_to).query, keep_blank_values=True))


def text_of(html: str) -> str:
    """What a person reads in the main part of a page."""
    main = html[html.index("<main") :] if "<main" in html else html
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", main))).strip()


@dataclass
class Scene:
    """The EHR, the record in it, two processes, and who is registered there: `ann`, `mum` and `doc`, `app`, `lab` and `record`.

    `mum` may open her own record and a child's, `doc` has both listed; the sender `lab` delivers, `record` notifies.
    """

    upstream: Upstream
    record: Record
    one: Served
    two: Served
    valkey: parts.Part
    lab: smart.BackendKey
    teller: smart.BackendKey
    stack: ExitStack
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http = self.stack.enter_context(httpx.Client(timeout=60, trust_env=False))
        self.urls = (self.one.url, self.two.url)
        self._app_token = ""

    @property
    def base(self) -> str:
        """What callers call the FHIR base, whichever process answers."""
        return f"{self.one.url}/fhir/{EHR}"

    def visitor(self) -> Visitor:
        """A new browser."""
        visitor = Visitor(*self.urls)
        self.stack.enter_context(visitor.http)
        return visitor

    # -- tokens

    def token_endpoint(self, ehr: str = EHR) -> str:
        return f"{self.one.url}/auth/{ehr}/token"

    def exchange(self, form: Mapping[str, str], *, ehr: str = EHR, at: int = 0, **more: Any) -> httpx.Response:
        return self.http.post(f"{self.urls[at]}/auth/{ehr}/token", data=dict(form), **more)

    def system(self, who: str, scope: str, *, ehr: str = EHR) -> str:
        """A backend client's token, by private_key_jwt."""
        key = self.lab if who == "lab" else self.teller
        assertion = key.assertion(who, moment=datetime.now(UTC), audience=self.token_endpoint(ehr))
        answer = self.exchange(smart.asserted(assertion, scope=scope), ehr=ehr)
        assert answer.status_code == 200, answer.text
        assert answer.json()["token_type"].lower() == "bearer"
        return self.kept(answer.json()["access_token"])

    def kept(self, secret: str) -> str:
        """Remember a secret: it must not be found in any log."""
        self.secrets.append(secret)
        return secret

    def launch(
        self, username: str, scope: str, *, client: str = "app", patient: str = "", allow: list[str] | None = None, **more: str
    ) -> dict[str, Any]:
        """A whole launch in a browser of its own; the token response. `more` are parameters of the authorization request."""
        visitor, pkce = self.visitor(), smart.Pkce()
        asked = smart.asking(client, scope, pkce, redirect_uri=APP, aud=self.base, **more)
        page = visitor.get(f"/auth/{EHR}/authorize?{urlencode(asked)}")
        page = visitor.send(page, "/signin", username=username, password=PASSWORD)
        if patient:
            assert page.url.path == f"/auth/{EHR}/patient", page.url
            page = visitor.send(page, "/patient", patient=patient)
        assert page.url.path == f"/auth/{EHR}/consent", text_of(page.text)
        visitor.send(page, "/consent", decision="allow", **({} if allow is None else {"scope": allow}))
        assert visitor.answer["iss"] == self.base
        form = {"grant_type": "authorization_code", "code": self.kept(visitor.answer["code"]), "redirect_uri": APP, "code_verifier": pkce.verifier}
        answer = self.exchange(form, auth=(client, SECRET))
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        self.kept(answer.json()["access_token"])
        return answer.json()

    # -- FHIR

    def fhir(self, token: str, method: str, path: str, body: Any = None, *, at: int = 0, ehr: str = EHR, **headers: str) -> httpx.Response:
        """One FHIR request at one of the processes. `body`: values, or bytes as they are."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if body is None or isinstance(body, bytes) else encode(body)
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if content is not None:
            sent.setdefault("Content-Type", "application/fhir+json")
        return self.http.request(method, f"{self.urls[at]}/fhir/{ehr}/{path}".rstrip("/"), content=content, headers=sent)

    def pushed(self, **more: Any) -> dict[str, Any]:
        """A result that a laboratory pushes, without an id."""
        found = self.record.result("pushed", "Sodium", days=-1, **more)
        del found["id"]
        return found

    def push(self, method: str, path: str, body: Any, *, process: int = 0, **headers: str) -> httpx.Response:
        """By the sender that delivers, with a token of its own."""
        return self.fhir(self.system("lab", "system/*.cruds"), method, path, body, at=process, **headers)

    def notify(self, resource: Mapping[str, Any]) -> None:
        """The EHR of record tells that it has changed this."""
        answer = self.fhir(self.system("record", "system/*.cruds"), "PUT", f"{resource['resourceType']}/{resource['id']}", resource)
        assert answer.status_code == 200, answer.text

    def target(self, answer: httpx.Response) -> str:
        """`Type/id` of a Location, which names the public base."""
        assert answer.headers["location"].startswith(f"{self.base}/"), answer.headers
        return answer.headers["location"].removeprefix(f"{self.base}/").partition("/_history/")[0]

    def app_token(self) -> str:
        """Of an app that Ann allowed to read and write all that a patient may. One for all tests."""
        if not self._app_token:
            self._app_token = self.launch("ann", "launch/patient patient/*.cruds")["access_token"]
        return self._app_token

    def start_valkey(self) -> None:
        """Another one where the first was, with nothing in it."""
        self.valkey = self.stack.enter_context(parts.valkey(port=int(self.valkey.url.rpartition(":")[2])))

    def rows(self) -> int:
        """Messages in the inbox."""
        with closing(sqlite3.connect(self.one.folder / "gateway.db", timeout=30)) as store:
            return store.execute("SELECT count(*) FROM inbox_message").fetchone()[0]

    def log(self) -> str:
        """What both processes have written so far."""
        return self.one.log.read_text("utf-8")

    def check_log(self) -> None:
        """No token, no secret, no data of a patient, no stack trace."""
        log = self.log()
        assert not LOGGED_NEVER.search(log), LOGGED_NEVER.search(log)
        assert self.record.canary not in log
        assert not [secret for secret in self.secrets if secret in log]


@contextmanager
def scene(kind: str, folder: Path, hapi_url: str = "") -> Iterator[Scene]:
    """Everything started, loaded and registered; the log is checked when it ends."""
    with ExitStack() as stack:
        ehr = stack.enter_context(upstream(kind, folder, hapi_url))
        stack.enter_context(ehr.http)
        record = Record()
        ehr.load(record)
        valkey = stack.enter_context(parts.valkey(port=parts.free_port()))
        lab, teller = smart.BackendKey(), smart.BackendKey("RS384")
        ports = (parts.free_port(), parts.free_port())
        asyncio.run(_register(folder, ehr, record, lab, teller))
        extra = ("--redis", valkey.url, "--with-worker", "--public-url", f"http://127.0.0.1:{ports[0]}")

        def started(port: int) -> Served:
            running = serving(folder, f"{EHR}={ehr.url}", f"{OTHER}={ehr.url}", extra=extra, env=environment(ehr), port=port)
            return stack.enter_context(running)

        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(started, ports)
        found = Scene(ehr, record, one, two, valkey, lab, teller, stack)
        yield found
        found.check_log()


def environment(ehr: Upstream) -> dict[str, str]:
    """How the gateway signs in at this EHR."""
    if not ehr.headers:
        return {}
    token = ehr.headers["Authorization"].removeprefix("Bearer ")
    return {f"GATEWAY_EHR_{name.upper()}_{key}": value for name in (EHR, OTHER) for key, value in (("AUTH", "bearer"), ("BEARER", token))}


async def _register(folder: Path, ehr: Upstream, record: Record, lab: smart.BackendKey, teller: smart.BackendKey) -> None:
    """People and systems, as the operator's commands make them."""
    flags = {"ehr": (f"{EHR}={ehr.url}", f"{OTHER}={ehr.url}"), "store": f"sqlite:///{folder / 'gateway.db'}"}
    settings = config.load(environ={}, flags=flags, cwd=folder).settings
    async with local.opened(settings) as state:
        people, registrar = local.accounts(state), local.registrar(state)
        ann, child = ListedPatient(record.a, "Ann Aster"), ListedPatient(record.child, "Kit Aster")
        doctor = f"Practitioner/{record.id('doctor')}"
        await people.add("ann", PASSWORD, ehr=EHR, fhir_user=f"Patient/{record.a}", display_name="Ann Aster", patients=(ann,))
        await people.add("mum", PASSWORD, ehr=EHR, fhir_user=f"Patient/{record.a}", display_name="Ann Aster", patients=(ann, child))
        await people.add("doc", PASSWORD, ehr=EHR, fhir_user=doctor, display_name="Dr. Ida Lund", patients=(ann, child))
        backend = {"grant_types": ["client_credentials"], "token_endpoint_auth_method": "private_key_jwt", "scope": "system/*.cruds"}
        pushes = {"lab": (lab, {"mode": "deliver", "ehr": EHR}), "record": (teller, {"mode": "notify"})}
        for name, (key, push) in pushes.items():
            await registrar.register(
                backend | {"client_id": name, "client_name": name.title(), "ehrs": [EHR], "jwks": {"keys": [key.public]}, "push": push}
            )
        app = {
            "client_id": "app",
            "client_name": "Growth chart",
            "client_secret": SECRET,
            "redirect_uris": [APP],
            "launch_uri": "https://app.test/launch",
        }
        await registrar.register(app)


def eventually(check: Any, seconds: float = 15.0) -> Any:
    """What `check` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found
