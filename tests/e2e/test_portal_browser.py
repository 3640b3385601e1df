"""Every page in a real browser: axe finds nothing, nothing scrolls sideways, everything is reached by keyboard, and all works without JavaScript."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from gateway.errors import UpstreamFault
from tests.e2e.conftest import PAGES, Site
from tests.support.clinic import lab

pytestmark = pytest.mark.browser

# What axe cannot decide by itself and hands to a person. Anything else that it leaves open fails the test.
LEFT_OPEN: dict[str, str] = {}
AXE = """async () => {
  const found = await axe.run(document, {rules: {'target-size': {enabled: true}}});
  const brief = list => list.map(v => v.id + ': ' + v.nodes.map(n => n.target.join(' ') + ' ' + (n.failureSummary || '')).join(' | '));
  return {violations: brief(found.violations), incomplete: brief(found.incomplete), passes: found.passes.length};
}"""
SIDEWAYS = """() => {
  const limit = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= limit) return [];
  return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > limit + 0.5).map(e => e.outerHTML.slice(0, 120));
}"""
# WCAG 1.4.12, set by the object model: the CSP lets no style sheet of others in.
SPACING = """() => { for (const e of document.querySelectorAll('body, body *')) {
  e.style.lineHeight = '1.5'; e.style.letterSpacing = '0.12em'; e.style.wordSpacing = '0.16em';
  if (e.tagName === 'P') e.style.marginBottom = '2em';
} }"""
FOCUSED = """() => {
  const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
  return {
    tag: e.tagName, text: (e.innerText || e.value || e.id || '').trim().slice(0, 60),
    shown: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2, size: box.width * box.height,
    mark: e.dataset.seen ? 'again' : (e.dataset.seen = 'yes', 'new'),
  };
}"""
REACHABLE = """() => {
  const radios = new Set();
  return [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary')].filter(e => {
    if (e.type === 'radio') { if (radios.has(e.name)) return false; radios.add(e.name); }
    return e.checkVisibility();
  }).length;
}"""


async def opened(browser: Browser, site: Site, path: str, *, width: int = 1280, scheme: str = "light", **more: Any) -> Page:
    """The page in a context of its own. Whatever it loads from elsewhere, or complains about, is noted."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    await site.sign_in(context)
    page = await context.new_page()
    page.complaints = []
    page.on(
        "console",
        lambda message: page.complaints.append(message.text) if message.type in ("error", "warning") and "404" not in message.text else None,
    )
    page.on("request", lambda request: page.complaints.append(request.url) if not request.url.startswith(site.url) else None)
    await page.goto(f"{site.url}/portal/{path}")
    return page


async def found_by_axe(page: Page, axe_source: str) -> list[str]:
    """Violations, and what axe left open without an explanation of ours."""
    await page.evaluate(axe_source)
    found = await page.evaluate(AXE)
    assert found["passes"] > 10
    return found["violations"] + [text for text in found["incomplete"] if text.partition(":")[0] not in LEFT_OPEN]


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_open_to_all(browser, site, axe_source, name):
    """Wide and narrow, light and dark: axe finds nothing, nothing scrolls sideways, nothing comes from elsewhere."""
    for scheme in ("light", "dark"):
        page = await opened(browser, site, site.pages[name], scheme=scheme)
        for width in (1280, 320):
            await page.set_viewport_size({"width": width, "height": 900})
            where = f"{name} {width} {scheme}"
            assert await found_by_axe(page, axe_source) == [], where
            assert await page.evaluate(SIDEWAYS) == [], where
        assert page.complaints == [], f"{name} {scheme}"
        await page.context.close()


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_bears_large_text_wide_spacing_and_forced_colours(browser, site, axe_source, name):
    """Text at 200 % is 640 px wide; WCAG's spacing at 320 px; a high-contrast mode."""
    page = await opened(browser, site, site.pages[name], width=640)
    assert await page.evaluate(SIDEWAYS) == []
    await page.set_viewport_size({"width": 320, "height": 900})
    await page.evaluate(SPACING)
    assert await page.evaluate(SIDEWAYS) == []
    await page.context.close()
    page = await opened(browser, site, site.pages[name], forced_colors="active")
    assert await found_by_axe(page, axe_source) == []
    await page.context.close()


@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("name", PAGES)
async def test_everything_is_reached_by_keyboard(browser, site, name, width):
    """Tab goes to each control once, the focus is always to be seen, and leaves the page at the end."""
    page = await opened(browser, site, site.pages[name], width=width)
    expected = await page.evaluate(REACHABLE)
    reached = 0
    for _ in range(3 * expected + 10):  # a date field has several stops inside it
        await page.keyboard.press("Tab")
        focus = await page.evaluate(FOCUSED)
        if focus["tag"] == "BODY":
            break
        assert focus["shown"], f"no visible focus on {focus}"
        assert focus["size"] > 0, focus
        reached += focus["mark"] == "new"
    assert focus["tag"] == "BODY", "the focus never left the page"
    assert reached == expected
    await page.context.close()


async def test_the_skip_link_comes_first_and_leads_to_the_main_content(browser, site):
    """One Tab, Enter: the focus is in main."""
    page = await opened(browser, site, "results")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the main content"
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await page.context.close()


async def test_the_picture_of_a_test_is_open_to_all(browser, own_site, axe_source):
    """A result over time, with marks of every shape: in light, dark and forced colours, wide and narrow."""
    for number, flag in enumerate(("N", "HH", "L", "A")):
        said = b'"interpretation": [{"coding": [{"code": "%s"}]}]' % flag.encode()
        value = b'"valueQuantity": {"value": %d.5, "unit": "mmol/L"}' % (number + 3)
        own_site.clinic.put(lab(f"s{number}", "Potassium", value, f"2025-0{number + 1}-01", said, code="series"))
    for scheme, colors in (("light", "none"), ("dark", "none"), ("light", "active")):
        page = await opened(browser, own_site, "results/observation/s1", width=320, scheme=scheme, forced_colors=colors)
        assert await page.locator("svg .mark").count() == 4
        assert await found_by_axe(page, axe_source) == []
        assert await page.evaluate(SIDEWAYS) == []
        assert page.complaints == []
        await page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_empty_pages_are_open_to_all(browser, empty_site, axe_source, scheme):
    """Empty states too."""
    for name, path in empty_site.pages.items():
        page = await opened(browser, empty_site, path, width=320, scheme=scheme)
        assert await found_by_axe(page, axe_source) == [], name
        assert await page.evaluate(SIDEWAYS) == [], name
        await page.context.close()


async def test_partial_and_broken_pages_are_open_to_all(browser, own_site, axe_source):
    """A part is missing, or all of it."""
    own_site.clinic.failing |= {"DiagnosticReport": UpstreamFault(), "Condition": UpstreamFault()}
    for path in ("", "results", "conditions"):
        page = await opened(browser, own_site, path, width=320)
        page.complaints.clear()
        assert await found_by_axe(page, axe_source) == [], path
        assert await page.evaluate(SIDEWAYS) == [], path
        await page.context.close()


async def test_a_wrong_form_is_open_to_all_and_has_the_focus_on_its_summary(browser, own_site, axe_source):
    """The summary is focused without any script, and its links lead to the fields."""
    page = await opened(browser, own_site, "appointments/new", width=320)
    await page.get_by_role("button", name="Send the request").click()
    assert await page.title() == "Error: Ask for an appointment – My health record"  # noqa: RUF001
    assert await page.evaluate("document.activeElement.getAttribute('role')") == "alert"
    assert await found_by_axe(page, axe_source) == []
    await page.get_by_role("link", name="Say what the visit is for").click()
    assert await page.evaluate("document.activeElement.id") == "what"
    await page.context.close()


# -- the patient's tasks, with JavaScript off and by keyboard alone where it says so


async def test_she_asks_for_an_appointment_and_takes_it_back(browser, own_site):
    """The page says requested, never booked; then it says cancelled; the clinic has the same."""
    page = await opened(browser, own_site, "", java_script_enabled=False)
    await page.get_by_role("link", name="Appointments").first.click()
    await page.get_by_role("link", name="Ask for an appointment").click()
    await page.get_by_label("What is the visit for?").fill("Skin rash")
    await page.get_by_label("First day that you could come").fill("2026-12-01")
    await page.get_by_label("Last day that you could come").fill("2026-12-15")
    await page.get_by_role("button", name="Send the request").click()
    await page.get_by_role("heading", name="Skin rash").wait_for()
    main = await page.locator("main").inner_text()
    assert "Your request was sent." in main
    assert "Requested" in main
    assert "This is not booked." in main
    (made,) = [item for item in own_site.clinic.of_type("Appointment") if item["serviceType"] == [{"text": "Skin rash"}]]
    assert made["status"] == "proposed"
    await page.get_by_role("link", name="Take back this request").click()
    await page.get_by_label("I feel better").check()
    await page.get_by_role("button", name="Take it back").click()
    await page.get_by_text("Your request was taken back.").wait_for()
    assert json.loads(own_site.clinic.resources["Appointment", made["id"]])["status"] == "cancelled"
    await page.context.close()


async def test_she_asks_about_a_result_and_reads_her_message(browser, own_site):
    """From the result to a message about it."""
    page = await opened(browser, own_site, "results", width=320, java_script_enabled=False)
    await page.get_by_role("link", name="Basic metabolic panel").click()
    await page.get_by_role("link", name="Potassium").click()
    assert "5.60 mmol/L" in await page.locator("main").inner_text()
    await page.get_by_role("link", name="Ask about this result").click()
    await page.get_by_label("Diabetes care team").check()
    assert await page.get_by_label("What is it about?").input_value() == "result"
    assert await page.get_by_role("link", name="Back to Potassium, 20 November 2026").get_attribute("href") == "/portal/results/observation/k1"
    await page.get_by_label("Your message").fill("Is this too high?")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("Your message was sent.").wait_for()
    assert "Is this too high?" in await page.locator("main").inner_text()
    (message,) = [item for item in own_site.clinic.of_type("Communication") if item.get("about")]
    assert message["about"] == [{"reference": "Observation/k1"}]
    await page.context.close()


async def test_she_gets_more_of_a_medicine_by_keyboard_alone(browser, own_site):
    """Tab and Enter only."""
    page = await opened(browser, own_site, "medicines/mr1", java_script_enabled=False)
    await _tab_to(page, "Get more of this medicine")
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Get more: Metformin 500 mg tablet").wait_for()
    await _tab_to(page, "Send the request")
    await page.keyboard.press("Enter")
    await page.get_by_text("You asked for more.").wait_for()
    (task,) = own_site.clinic.of_type("Task")
    assert (task["status"], task["focus"]) == ("requested", {"reference": "MedicationRequest/mr1"})
    await page.context.close()


async def _tab_to(page: Page, text: str) -> None:
    for _ in range(60):
        await page.keyboard.press("Tab")
        if text in (await page.locator(":focus").inner_text() if await page.locator(":focus").count() else ""):
            return
    pytest.fail(f"{text} is not reached")


async def test_she_answers_a_message(browser, own_site):
    """It stands in the thread at once."""
    page = await opened(browser, own_site, "messages", java_script_enabled=False)
    await page.get_by_role("link", name="Question about metformin").click()
    await page.get_by_label("Your message").fill("Thank you.")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("Your message was sent.").wait_for()
    assert "Thank you." in await page.locator("main").inner_text()
    await page.context.close()


async def test_every_link_of_every_page_leads_somewhere(browser, site):
    """Followed from the home page, as far as they go."""
    page = await opened(browser, site, "", java_script_enabled=True)
    todo, seen = ["/portal/"], {"/apps", "/security"}  # with the sign-in pages, which are not part of this site: other browser tests open them
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = await page.request.get(f"{site.url}{path}")
        assert answer.status == 200, path
        await page.goto(f"{site.url}{path}")
        links = await page.evaluate("[...document.querySelectorAll('a[href^=\"/\"]')].map(a => a.getAttribute('href').split('#')[0])")
        todo += [link for link in links if link not in seen]
    assert len(seen) > 25
    await page.context.close()
