"""Any order of authorize, token, refresh, use, revoke and waiting (ATK-O6, ATK-O13), against a small model that says what each answer must be.

What holds whatever happens: a code gives at most one token, a family has at most one live refresh token, scopes never widen, and after a
revocation nothing of the family works.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Unauthenticated
from gateway.smart.record import Caller
from gateway.smart.scopes import clinical, is_subset
from gateway.store import oauth_tables as tables
from tests.support import smart

RECORDS = ["patient/Observation.rs", "patient/Condition.rs?category=problem-list-item", "patient/Patient.r"]
ASKED = ["", "", "", "patient/Observation.rs", "patient/Observation.s", "patient/Observation.cruds", "patient/*.rs", "offline_access"]
ACCESS, REFRESH, CODE, RETRY = 3600, 100 * 86400, 60, 60


@dataclass(eq=False)
class Family:
    """What one consent gave, and what became of it."""

    code: str
    verifier: str
    scope: str
    born: float
    exchanged: bool = False
    revoked: bool = False
    refreshes: list[Refresh] = field(default_factory=list)
    issued: int = 0


@dataclass(eq=False)
class Refresh:
    """A refresh token: `rotated` once it was used, `spent` once something that replaced it was used.

    Between the two it may have come again: `retried` at once, `disputed` later; then a use of what replaced it ends the family.
    """

    family: Family
    text: str
    until: float
    state: str = "active"
    replaces: Refresh | None = None
    rotated: float = 0.0


@dataclass(eq=False)
class Access:
    """An access token."""

    family: Family
    text: str
    scope: str
    until: float
    replaces: Refresh | None = None
    revoked: bool = False


Step = tuple[str, dict[str, Any]]
_RECORDS = st.sets(st.sampled_from(RECORDS), min_size=1)
_MOSTLY = st.sampled_from([True, True, True, False])
_CLIENT = st.sampled_from(["app", "app", "app", "app", "other"])
_SOME = st.sampled_from([0, 0, 0, 1, 2, 3])


# Mostly what keeps a family alive: most faults need a few links of a chain.
_KINDS: dict[str, tuple[int, dict[str, st.SearchStrategy[Any]]]] = {
    "allow": (1, {"records": _RECORDS, "offline": _MOSTLY, "exchanged": _MOSTLY}),
    "exchange": (1, {"which": _SOME, "client": _CLIENT, "verifier": _MOSTLY}),
    "refresh": (10, {"which": _SOME, "back": st.sampled_from([0, 0, 0, 1, 2]), "client": _CLIENT, "scope": st.sampled_from(ASKED)}),
    "use": (8, {"which": _SOME}),
    "revoke": (1, {"which": _SOME, "refresh": st.booleans(), "client": _CLIENT}),
    "disconnect": (1, {"which": _SOME}),
    "wait": (1, {"seconds": st.sampled_from([1, CODE + 1, ACCESS + 1, 60 * 86400])}),
}
STEPS = st.sampled_from([name for name, (often, _) in _KINDS.items() for _ in range(often)]).flatmap(
    lambda name: st.tuples(st.just(name), st.fixed_dictionaries(_KINDS[name][1]))
)


class World:
    """Two apps of one person; what one app holds is tried by the other too."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.families: list[Family] = []
        self.accesses: list[Access] = []
        self.now = 0.0
        self.do(self._start())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def _start(self) -> None:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.server = await self.stack.enter_async_context(smart.smart_server(f"sqlite+aiosqlite:///{folder}/store.db"))
        await self.server.public_app()
        await self.server.public_app("other")
        self.account = await self.server.person()
        self.browser = smart.Browser(self.server.app())

    def close(self) -> None:
        self.do(self.stack.aclose())
        self.runner.close()

    def post(self, form: dict[str, str], client: str) -> tuple[int, dict[str, Any]]:
        response = self.do(smart.exchange(self.browser.http, {**form, "client_id": client}))
        return response.status_code, response.json()

    # What the person does

    def allow(self, records: set[str], *, offline: bool, exchanged: bool) -> None:
        """She allows a part of what the app asks for, and the app mostly goes on with it."""
        ticked = {*records, "offline_access"} if offline else records
        pkce = smart.Pkce()
        request = smart.asking(scope=" ".join(["launch/patient", "offline_access", *RECORDS]), pkce=pkce)
        code = self.do(smart.code_for(self.browser, request, scopes=sorted(ticked)))
        self.families.append(Family(code, pkce.verifier, " ".join(sorted(ticked)), self.now))
        if exchanged:
            self.exchange(0, "app", verifier=True)

    def disconnect(self, which: int) -> None:
        """She takes it back."""
        family = self.families[which % len(self.families)]
        grant = next(row.grant_id for row in self._rows(tables.code) if row.hash == smart.digest(family.code))
        ended = self.do(self.server.grants.revoke(self.account, grant, Caller()))
        assert ended is not family.revoked
        family.revoked = True

    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.server.clock.forward(seconds)
        self.now += seconds

    # What apps do

    def exchange(self, which: int, client: str, *, verifier: bool) -> None:
        """A code, by whom it is for or not, with the right verifier or not, once or again."""
        family = self.families[-1 - which % len(self.families)]
        form = {"grant_type": "authorization_code", "code": family.code, "redirect_uri": smart.APP}
        form["code_verifier"] = family.verifier if verifier else "w" * 43
        status, body = self.post(form, client)
        if client == "app" and family.exchanged:
            family.revoked = True  # used twice
        if client != "app" or not verifier or family.exchanged or family.revoked or self.now >= family.born + CODE:
            assert (status, body["error"]) == (400, "invalid_grant")
            return
        assert status == 200, body
        family.exchanged = True
        for other in self.families:
            other.revoked |= any(one.state in ("retried", "disputed") for one in other.refreshes)
        self._issued(family, body, None)

    def refresh(self, which: int, back: int, client: str, scope: str) -> None:
        """A refresh token, the newest or an old one, with the same scopes, fewer or more."""
        family = self.families[-1 - which % len(self.families)]
        if back >= len(family.refreshes):
            return
        token = family.refreshes[-1 - back]
        form = {"grant_type": "refresh_token", "refresh_token": token.text} | ({"scope": scope} if scope else {})
        status, body = self.post(form, client)
        if client == "app":
            self._presented(token)
        if client != "app" or token.state != "active" or family.revoked or self.now >= token.until:
            assert (status, body["error"]) == (400, "invalid_grant")
            return
        if scope and not is_subset(scope, family.scope):
            assert (status, body["error"]) == (400, "invalid_scope")
            return
        assert status == 200, body
        self._seen(token.replaces)
        token.state, token.rotated = "rotated", self.now
        assert is_subset(body["scope"], scope or family.scope)
        self._issued(family, body, token)

    def use(self, which: int) -> None:
        """An access token at the FHIR side."""
        if not self.accesses:
            return
        token = self.accesses[-1 - which % len(self.accesses)]
        over = token.revoked or token.family.revoked or self.now >= token.until
        if not over and token.replaces and token.replaces.state == "disputed":
            token.family.revoked = over = True
        try:
            principal = self.do(self.server.authenticator.principal("hapi", [f"Bearer {token.text}"]))
        except Unauthenticated:
            assert over
            return
        assert not over
        assert principal.scopes == clinical(token.scope)
        self._seen(token.replaces)

    def revoke(self, which: int, client: str, *, refresh: bool) -> None:
        """RFC 7009: always 200, and only one's own tokens are touched."""
        if not self.accesses:
            return
        token: Access | Refresh = self.accesses[-1 - which % len(self.accesses)]
        if refresh and token.family.refreshes:
            token = token.family.refreshes[-1]
        response = self.do(self.browser.http.post("/auth/hapi/revoke", data={"token": token.text, "client_id": client}))
        assert response.status_code == 200
        if client == "app" and isinstance(token, Refresh):
            token.family.revoked = True
        elif client == "app":
            token.revoked = True

    # What always holds

    def check(self) -> None:
        """By the store, whatever the model thinks: one live refresh token in a family at most."""
        live: dict[str, int] = {}
        for row in self._rows(tables.refresh_token):
            live[row.grant_id] = live.get(row.grant_id, 0) + (row.state == "active")
        assert all(count <= 1 for count in live.values())

    def _issued(self, family: Family, body: dict[str, Any], replaces: Refresh | None) -> None:
        assert ("refresh_token" in body) == ("offline_access" in family.scope)
        if "refresh_token" in body:
            family.refreshes.append(Refresh(family, body["refresh_token"], self.now + REFRESH, replaces=replaces))
        self.accesses.append(Access(family, body["access_token"], body["scope"], self.now + ACCESS, replaces=replaces))

    def _seen(self, replaced: Refresh | None) -> None:
        if replaced and replaced.state in ("rotated", "retried"):
            replaced.state = "spent"

    def _presented(self, token: Refresh) -> None:
        """What a family learns from a refresh token that comes, whatever is asked with it."""
        replaced = token.replaces
        if token.state == "spent" or (token.state == "active" and replaced is not None and replaced.state == "disputed"):
            token.family.revoked = True
        elif token.state in ("rotated", "retried"):
            token.state = "retried" if self.now <= token.rotated + RETRY else "disputed"

    def _rows(self, table: Any) -> list[Any]:
        async def read() -> list[Any]:
            async with self.server.database.read() as connection:
                return list((await connection.execute(table.select())).all())

        return self.do(read())


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEPS, min_size=15, max_size=35))
def test_tokens_in_any_order(steps: list[Step]):
    """ATK-O6, ATK-O13: every answer is the one that the model expects, and the invariants hold after each step."""
    world = World()
    try:
        world.allow({"patient/Observation.rs"}, offline=True, exchanged=True)
        for name, more in steps:
            getattr(world, name)(**more)
            world.check()
    finally:
        world.close()
