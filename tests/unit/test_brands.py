"""User-access brands: what is published from the configuration, and how it is fetched (A13.75-80, HL7@412, HL7@432)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.api import brands as api
from gateway.config import load
from gateway.errors import ConfigError
from gateway.fhir.brands import Brand, Brands, BrandWrong, Site, etag_of, identifier_of, make
from gateway.smart.server.discovery import Offered, smart_configuration
from tests.conformance.checks.brands import _wrong_brand, _wrong_endpoint

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
BASE = "https://gw.example/brands"
BRAND = Brand(
    "St. Mary's",
    "https://www.stmarys.example/about",
    aliases=("Saint Mary",),
    addresses=({"line": "1 Main St", "city": "Boston", "state": "MA", "postal_code": "02111", "country": "US"}, {"postal_code": "02139"}),
    logo="https://stmarys.example/logo.svg",
    logo_license="https://stmarys.example/logo.html",
    portal="MyMary",
    portal_url="https://gw.example/portal/",
    portal_description="For patients of all clinics.",
    developers="https://stmarys.example/developers",
)
ONE = [Site("hapi", "https://gw.example/fhir/hapi", "St. Mary's")]
NORTH = Site("north", "https://gw.example/fhir/north", "Clinic North", "https://north.example")
TWO = [NORTH, Site("south", "https://gw.example/fhir/south", "South")]


def resources(brands: Brands, kind: str) -> list[dict[str, Any]]:
    return [one["resource"] for one in json.loads(brands.body)["entry"] if one["resource"]["resourceType"] == kind]


def test_one_ehr_is_one_brand():
    """With everything that the operator said, under the names of the guide (HL7@436), and when it changed (HL7@419)."""
    brands = make(BRAND, ONE, BASE, NOON)
    bundle = json.loads(brands.body)
    assert (bundle["type"], bundle["timestamp"], bundle["meta"]["lastUpdated"]) == ("collection", NOON.isoformat(), NOON.isoformat())
    assert {one["resource"]["meta"]["lastUpdated"] for one in bundle["entry"]} == {NOON.isoformat()}
    (brand,), (endpoint,) = resources(brands, "Organization"), resources(brands, "Endpoint")
    assert (brand["name"], brand["alias"]) == ("St. Mary's", ["Saint Mary"])
    assert brand["telecom"] == [{"system": "url", "value": BRAND.website}]
    assert brand["identifier"] == [{"system": "urn:ietf:rfc:3986", "value": "https://stmarys.example"}] == [brands.identifiers["hapi"]]
    assert brand["address"][0] == {"line": ["1 Main St"], "city": "Boston", "state": "MA", "postalCode": "02111", "country": "US"}
    told = {one["url"].rpartition("/")[2]: {part["url"]: part for part in one["extension"]} for one in brand["extension"]}
    assert told["organization-brand"]["brandLogo"]["valueUrl"] == BRAND.logo
    assert told["organization-portal"]["portalName"]["valueString"] == "MyMary"
    assert told["organization-portal"]["portalEndpoint"]["valueReference"] == {"reference": "Endpoint/hapi-r4"}
    assert (endpoint["address"], endpoint["contact"][0]["value"]) == (ONE[0].base, BRAND.developers)
    assert endpoint["managingOrganization"] == {"reference": "Organization/primary"}


@pytest.mark.parametrize("sites", [ONE, TWO], ids=["one", "two"])
def test_what_the_profiles_demand_is_there(sites):
    """A13.77, A13.79, A13.80: judged by the conformance suite's own rules; every reference is within the bundle."""
    brands = make(BRAND, sites, BASE, NOON)
    endpoints, organizations = resources(brands, "Endpoint"), resources(brands, "Organization")
    known = {one["id"] for one in endpoints}
    assert [wrong for one in endpoints for wrong in _wrong_endpoint(one)] == []
    assert [wrong for one in organizations for wrong in _wrong_brand(one, known)] == []
    assert {one["reference"] for one in organizations[0]["endpoint"]} == {f"Endpoint/{id_}" for id_ in known}  # the primary brand names all
    for one in sites:
        assert sum(brands.identifiers[one.ehr] in organization["identifier"] for organization in organizations) == 1


def test_several_ehrs_are_brands_below_one():
    """Two levels, each with its own endpoint, website and identifier."""
    brands = make(BRAND, TWO, BASE, NOON)
    primary, north, south = resources(brands, "Organization")
    assert "partOf" not in primary
    assert [one["partOf"]["reference"] for one in (north, south)] == ["Organization/primary"] * 2
    assert [one["endpoint"] for one in (north, south)] == [[{"reference": "Endpoint/north-r4"}], [{"reference": "Endpoint/south-r4"}]]
    assert brands.identifiers == {
        "north": {"system": "urn:ietf:rfc:3986", "value": "https://north.example"},
        "south": {"system": "urn:ietf:rfc:3986", "value": TWO[1].base},
    }
    assert south["telecom"][0]["value"] == BRAND.website


def test_identifiers_are_the_operators():
    """System and value as given (HL7@403, HL7@421); two brands never share one (HL7@432)."""
    assert identifier_of("urn:oid:1.2.3|42", "https://x.example") == {"system": "urn:oid:1.2.3", "value": "42"}
    assert identifier_of("42", "https://x.example") == {"value": "42"}
    twins = [Site(name, f"https://gw.example/fhir/{name}", name, "https://same.example") for name in ("a", "b")]
    with pytest.raises(BrandWrong, match="same identifier"):
        make(BRAND, twins, BASE, NOON)
    with pytest.raises(BrandWrong, match="valueString"):
        make(Brand("", "https://x.example", portal_url="https://x.example"), ONE, BASE, NOON)


async def test_anybody_fetches_it_and_only_when_it_changed():
    """A13.75: CORS for all, cacheable, a weak ETag, 304 by weak comparison."""
    brands, app = make(BRAND, ONE, BASE, NOON), FastAPI()
    app.include_router(api.router(brands))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://gw.example") as http:
        answer = await http.get("/brands", headers={"Origin": "https://app.example", "Accept": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/fhir+json")
        assert (answer.headers["access-control-allow-origin"], answer.headers["cache-control"]) == ("*", "public, max-age=3600")
        assert answer.content == brands.body
        etag = answer.headers["etag"]
        assert etag.startswith('W/"')
        for known in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
            again = await http.get("/brands", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert (await http.get("/brands", headers={"If-None-Match": '"other"'})).status_code == 200
        preflight = await http.options("/brands", headers={"Origin": "https://app.example"})
        assert (preflight.status_code, "if-none-match" in preflight.headers["access-control-allow-headers"]) == (204, True)
        assert (await http.post("/brands")).status_code == 405


def test_a_restart_is_no_change(tmp_path):
    """Bundle.timestamp is when the content changed last, and not when the gateway started; a file that cannot be read begins anew."""
    file, later = tmp_path / "brands.json", NOON + timedelta(days=1)
    first = etag_of(BRAND, ONE, BASE)
    assert api.changed_at(file, first, lambda: NOON) == NOON
    assert api.changed_at(file, first, lambda: later) == NOON
    assert api.changed_at(file, etag_of(BRAND, TWO, BASE), lambda: later) == later
    assert make(BRAND, ONE, BASE, NOON).etag == make(BRAND, ONE, BASE, later).etag == first
    file.write_text("{")
    assert api.changed_at(file, first, lambda: later) == later


def test_discovery_names_them():
    """Where they are configured, and only there (HL7@409, HL7@412): an identifier with value (HL7@410, HL7@430) and system (HL7@431)."""
    named: dict[str, Any] = {"public_url": "https://gw.example", "ehr": "hapi", "types": ["Patient"]}
    told = smart_configuration(**named, offered=Offered(brands=BASE, brand_identifier={"value": "x"}))
    assert (told["user_access_brand_bundle"], told["user_access_brand_identifier"]) == (BASE, {"value": "x"})
    assert not {"user_access_brand_bundle", "user_access_brand_identifier"} & smart_configuration(**named).keys()


def test_how_it_is_configured(tmp_path):
    """[brand] is read key by key; what is wrong is told with its line and the fix."""
    file = tmp_path / "gateway.toml"

    def read(text: str) -> Any:
        file.write_text(text)
        return load(config=file, environ={}, cwd=tmp_path)

    good = '[brand]\nname = "St. Mary\'s"\nwebsite = "https://stmarys.example"\naddresses = [{ city = "Boston", state = "MA" }]\n'
    loaded = read(good + '[ehr.hapi]\nurl = "http://127.0.0.1/fhir"\n')
    assert loaded.settings.brand_name == "St. Mary's"
    assert loaded.settings.brand_addresses == ({"city": "Boston", "state": "MA"},)
    assert {one.name: one.source for one in loaded.listed()}["brand_website"] == "gateway.toml:3"
    for text, where, fix in (
        ('[brand]\nname = "x"\n', "gateway.toml:2", "website"),
        ('[brand]\nwebsite = "https://x.example"\n', "gateway.toml:2", "name"),
        ('[brand]\nname = "x"\nwebsite = "http://x.example"\n', "gateway.toml:3", "https"),
        ('[brand]\nname = "x"\nlogo = "javascript:alert(1)"\n', "gateway.toml:3", "http"),
        ('[brand]\nadresses = "x"\n', "gateway.toml:2", "brand_addresses"),
        ('[brand]\naddresses = [{ town = "x" }]\n', "gateway.toml:2", "city"),
        ('[brand]\ncategory = "clinic"\n', "gateway.toml:2", "prov"),
        ('[brand]\nidentifier = "urn:x|"\n', "gateway.toml:2", "urn:ietf:rfc:3986"),
        ('brand = "x"\n', "gateway.toml:1", "brand"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(text)
        assert (caught.value.where, fix in caught.value.fix) == (where, True), text
