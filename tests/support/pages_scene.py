"""People, an app and browsers for the pages of sign-in and of an authorization."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.store import oauth as rows
from gateway.store.oauth_rows import Grant, digest
from tests.support import smart

CONSENT, PATIENT = "/auth/hapi/consent", "/auth/hapi/patient"


@dataclass
class Running:
    server: smart.Smart

    def browser(self, address: str = "192.0.2.1") -> smart.Browser:
        return smart.Browser(self.server.app(), address=address)

    async def at_consent(self, scope: str = "launch/patient patient/Observation.rs openid", username: str = "ann", **more: str) -> smart.Browser:
        browser = self.browser()
        await browser.authorize(smart.asking(scope=scope, **more))
        await browser.sign_in(username)
        return browser

    async def granted(self, browser: smart.Browser) -> Grant:
        """What the code of this browser stands for."""
        async with self.server.database.read() as connection:
            code = await rows.code(connection, digest(browser.answer["code"]))
            assert code is not None
            grant = await rows.grant(connection, code.grant_id)
        assert grant is not None
        return grant


def no_code(browser: smart.Browser) -> None:
    """The browser never left with a code."""
    assert "code" not in browser.answer


def fields_of(browser: smart.Browser, action: str) -> dict[str, str]:
    return dict(smart.Form(browser.page.text).to(action))
