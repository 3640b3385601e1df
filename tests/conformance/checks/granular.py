"""A10.57 to A10.60: granular scopes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.conformance.check import Group, Missing, Outcome, verdict
from tests.conformance.context import Context, Json, Launched, brief
from tests.conformance.launches import GRANULAR, Clinical, clinical, scopes_of

GROUP = Group("granular")
TYPES = ("Condition", "Observation")
_MOST = 6
"""Categories of one type that are searched for: more of them tell nothing new."""

Query = Mapping[str, str]


@GROUP.check("A10.57", "g10_smart_fine_grained_scopes_stu2_2, us_core_granted_granular_scopes")
def granted(at: Context) -> Outcome:
    """Granular scopes are granted as they were asked for, and no wider one beside them."""
    problems = []
    for name, wanted in GRANULAR.items():
        received = scopes_of(at.launch(name).tokens.get("scope"))
        problems += [f"{one} was not granted" for one in wanted if one not in received]
        problems += [f"{one.raw} was granted too" for one in clinical(" ".join(received)) if one.type in (*TYPES, "*") and one.raw not in wanted]
    return verdict(problems)


@GROUP.check("A10.58", "us_core granular scope search tests")
def searches(at: Context) -> Outcome:
    """Each search gives what is within the granular scopes of what it gave before: nothing else, and nothing less, by GET and POST."""
    problems: list[str] = []
    for name in GRANULAR:
        for kind in TYPES:
            for query in _queries(at, kind, _categories(at, name, kind)):
                problems += [f"{kind} by {', '.join(query)}: {one}" for one in _differs(at, name, kind, query)]
    return verdict(problems)


@GROUP.check("A10.59", "us_core granular scope read tests")
def reads(at: Context) -> Outcome:
    """What is within the granular scopes can be read by its id, what is not is refused."""
    problems: list[str] = []
    for name in GRANULAR:
        token = at.launch(name).access
        for kind in TYPES:
            within = _categories(at, name, kind)
            inside, outside = _split(_before(at, kind, {}), within)
            if not inside or not outside:
                raise Missing(f"the patient needs {kind} resources within and without {', '.join(sorted(within))}")
            for resource, wanted in ((inside[0], "200"), (outside[0], "4xx")):
                answer = at.fhir(f"{kind}/{resource['id']}", token)
                right = answer.status_code == 200 if wanted == "200" else 400 <= answer.status_code < 500
                problems += [f"{kind} that is {'within' if wanted == '200' else 'outside'}: {answer.status_code} {brief(answer)}"] * (not right)
    return verdict(problems)


@GROUP.check("A10.60", "g10_smart_granular_scope_selection")
def selection(at: Context) -> Outcome:
    """When the person shares only some kinds of a type, the scopes say so."""
    received = clinical(at.launch("some-kinds").tokens.get("scope"))
    problems = [f"no granular scope of {kind} came back" for kind in TYPES if not any(one.type == kind and "=" in one.query for one in received)]
    problems += [f"{one.raw} was granted too" for one in received if one.type in (*TYPES, "*") and not one.query]
    return verdict(problems + ["patient/Patient is missing"] * (not any((one.level, one.type) == ("patient", "Patient") for one in received)))


def _categories(at: Context, name: str, kind: str) -> set[str]:
    """system|code of the granular scopes that a launch got for a type."""
    found: list[Clinical] = clinical(at.launch(name).tokens.get("scope"))
    return {one.query.partition("category=")[2] for one in found if one.type == kind and "category=" in one.query}


def _codes(resource: Json, element: str) -> list[str]:
    concepts = resource.get(element) or ()
    concepts = concepts if isinstance(concepts, list) else [concepts]
    return [
        f"{coding.get('system', '')}|{coding.get('code')}" for concept in concepts for coding in concept.get("coding") or () if coding.get("code")
    ]


def _split(resources: list[Json], within: set[str]) -> tuple[list[Json], list[Json]]:
    """Those inside and those outside of the categories."""
    inside = [one for one in resources if within & set(_codes(one, "category"))]
    return inside, [one for one in resources if one not in inside]


def _before(at: Context, kind: str, query: Query) -> list[Json]:
    """What the standalone launch's token, without granular scopes, finds for its patient."""
    launched = at.launch("standalone")
    params = {"patient": launched.patient, **query}
    return at.once(f"launch:standalone:{kind}:{params}", lambda: at.found(kind, params, launched.access))


def _queries(at: Context, kind: str, within: set[str]) -> Iterator[Query]:
    """Searches that are made from what the patient has: by each category, then with date, status and code."""
    resources = _before(at, kind, {})
    if not resources:
        raise Missing(f"the patient has no {kind}")
    categories = list(dict.fromkeys(code for one in resources for code in _codes(one, "category")))
    yield from ({"category": code} for code in sorted(categories, key=lambda code: code not in within)[:_MOST])
    inside, outside = _split(resources, within)
    for one in (*inside[:1], *outside[:1]):
        category = {"category": next(iter(_codes(one, "category")), "none")}
        yield from ({**category, **more} for more in _details(kind, one))
        code = {"code": next(iter(_codes(one, "code")), "none")}
        yield code
        if kind == "Observation":
            yield from ({**code, **more} for more in _details(kind, one) if "date" in more)


def _details(kind: str, one: Json) -> Iterator[Query]:
    if kind == "Observation":
        yield {"status": str(one.get("status"))}
        if moment := one.get("effectiveDateTime"):
            yield {"date": f"ge{moment[:10]}"}
        return
    if codes := _codes(one, "clinicalStatus"):
        yield {"clinical-status": codes[0]}
    if moment := one.get("recordedDate"):
        yield {"recorded-date": f"ge{moment[:10]}"}


def _differs(at: Context, name: str, kind: str, query: Query) -> Iterator[str]:
    launched: Launched = at.launch(name)
    within = _categories(at, name, kind)
    wanted = {one["id"] for one in _split(_before(at, kind, query), within)[0]}
    must = query.get("category") in within
    for post in (False, True):
        found = {one.get("id") for one in at.found(kind, {"patient": launched.patient, **query}, launched.access, post=post)}
        if found - wanted:
            yield f"{len(found - wanted)} too many"
        if wanted - found and (must or found):
            yield f"{len(wanted - found)} too few"
