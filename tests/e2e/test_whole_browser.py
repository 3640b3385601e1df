"""The whole gateway in a real browser: sign in by hand, and every kind of page of real-looking records, rich, long and in two scripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser

from tests.e2e.test_portal_browser import SIDEWAYS, found_by_axe
from tests.support.whole_on_socket import Whole, whole

pytestmark = pytest.mark.browser
EXAMPLES = 4
"""Pages of one kind that axe looks at; the others are only opened."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Over the EHR double, with everybody's record."""
    with whole(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def kind_of(path: str) -> str:
    """`/portal/results/observation/*` of one result: pages of a kind differ by data only."""
    return re.sub(
        r"^(/portal/[a-z]+/(?:observation|report|plan|claim)/|/portal/(?:medicines|appointments|messages)/)(?!new)[^/?]+",
        r"\1*",
        path.partition("?")[0],
    )


@pytest.mark.parametrize(
    ("username", "width", "scheme"), [("amara", 320, "light"), ("noor", 1280, "dark"), ("joelle", 320, "dark"), ("walter", 1280, "light")]
)
@pytest.mark.timeout(400)
async def test_every_kind_of_page_of_a_record_is_open_to_all(
    browser: Browser, gateway: Whole, axe_source: str, username: str, width: int, scheme: str
):
    """Followed link by link from the home page; nothing scrolls sideways and axe finds nothing."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    await gateway.sign_in(context, username)
    page = await context.new_page()
    seen: set[str] = set()
    looked: Counter[str] = Counter()
    todo = ["/portal/"]
    while todo:
        path = todo.pop(0)
        if path in seen or looked[kind_of(path)] >= EXAMPLES:
            continue
        seen.add(path)
        looked[kind_of(path)] += 1
        answer = await page.goto(f"{gateway.url}{path}")
        assert answer is not None
        assert answer.status == 200, path
        assert await page.evaluate(SIDEWAYS) == [], path
        assert await found_by_axe(page, axe_source) == [], path
        todo += await page.evaluate("[...document.querySelectorAll('a[href^=\"/portal/\"]')].map(a => a.getAttribute('href').split('#')[0])")
    assert len(looked) > 10, looked
    await context.close()


async def test_signing_in_and_out_by_hand(browser: Browser, gateway: Whole):
    """The page asked for, the sign-in page, the page itself; after signing out it asks again."""
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{gateway.url}/portal/results")
    assert "/signin" in page.url
    await page.get_by_label("User name").fill("amara")
    await page.get_by_label("Password").fill("alder-street-demo")
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("heading", name="Test results").wait_for()
    assert page.url.endswith("/portal/results")
    await page.get_by_role("button", name="Sign out").click()
    await page.goto(f"{gateway.url}/portal/results")
    assert "/signin" in page.url
    await context.close()
