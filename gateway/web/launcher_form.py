"""The launcher's form as values: what there is to choose from, what was chosen, and the trial that follows from it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from urllib.parse import urlencode, urlsplit

from gateway.smart.server.faults import FAULTS, Fault
from gateway.smart.server.trial import TrialWanted
from gateway.store.oauth_rows import Client

KINDS = (
    ("ehr", "From the record system", "The app gets a launch with the patient in it (SMART EHR launch)."),
    ("standalone", "By itself", "The app is opened and asks for a patient (SMART standalone launch)."),
    (
        "backend",
        "A backend service, without a browser",
        "Nothing opens. The service sends the trial's id with its token request, as trial.",
    ),
)
MOMENTS = {
    "authorize": "While the person is asked",
    "token": "When the app gets its token",
    "refresh": "When the app renews its token",
    "fhir": "When the app reads the record",
}
FIELDS = (
    *("ehr", "client_id", "launch_url", "kind", "who", "user", "patient", "visit", "encounter"),
    *("scopes", "access_life", "refresh_life", "fault", "intent", "banner"),
)
"""As the address of the page and its form have them. `who` is "USER|PATIENT", `visit` an encounter: each one of those that are offered."""
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class App:
    """An app to choose. `opens`: whether a browser can open it."""

    id: str
    name: str
    opens: bool


@dataclass(frozen=True, slots=True)
class Who:
    """A developer's account and a patient whom she may see."""

    user: str
    user_name: str
    patient: str
    words: str

    @property
    def value(self) -> str:
        """As the form sends it."""
        return f"{self.user}|{self.patient}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field, and what to do."""

    field: str
    text: str
    fix: str = ""


def chosen(sent: Mapping[str, str], *, ehr: str, apps: Sequence[App], people: Sequence[Who]) -> dict[str, str]:
    """Every field: as it was sent, else as the page proposes it. An address without anything proposes a whole launch."""
    found = {name: sent.get(name, "")[:_LONGEST] for name in FIELDS}
    found["ehr"] = found["ehr"] or ehr
    found["kind"] = found["kind"] or "ehr"
    if not found["client_id"] and not found["launch_url"]:
        found["client_id"] = next((one.id for one in apps if one.opens), apps[0].id if apps else "")
    if not any(found[name] for name in ("who", "user", "patient")):
        found["who"] = people[0].value if people else ""
    if found["who"] not in {"", *(one.value for one in people)}:  # nobody who is offered: then it is typed
        user, _, patient = found["who"].partition("|")
        found |= {"who": "", "user": found["user"] or user, "patient": found["patient"] or patient}
    if "kind" not in sent:  # nothing was sent: a box that nobody saw was not cleared
        found["banner"] = "yes"
    return found


def whose(values: Mapping[str, str]) -> tuple[str, str]:
    """User name and id of the patient. What is typed goes before what is picked."""
    user, _, patient = values["who"].partition("|")
    return (values["user"] or user).strip(), (values["patient"] or patient).strip()


def with_visit(values: Mapping[str, str], offered: Collection[str]) -> dict[str, str]:
    """The encounter in its place: picked when it is offered, else typed."""
    encounter = values["encounter"].strip() or values["visit"]
    return {**values, **({"visit": encounter, "encounter": ""} if encounter in offered else {"visit": "", "encounter": encounter})}


def link(values: Mapping[str, str], base: str) -> str:
    """The address of this page with these choices, for others to open."""
    return f"{base}?{urlencode({name: value for name, value in values.items() if value})}"


def wanted(values: Mapping[str, str], clients: Sequence[Client]) -> TrialWanted | Problem:
    """The trial. What is typed goes before what is picked."""
    client_id, (user, patient) = values["client_id"], whose(values)
    if values["launch_url"]:
        found = at_origin(values["launch_url"], clients, client_id)
        if found is None:
            return Problem(
                "launch_url",
                "No app with an address there is registered.",
                "register it: gateway client register --from app.json, with this address as launch_uri or among its redirect_uris",
            )
        client_id = found.id
    lives: dict[str, int] = {}
    for name in ("access_life", "refresh_life"):
        text = values[name].strip()
        if text and not (text.isascii() and text.isdigit() and len(text) <= 6):
            return Problem(name, "That is no number of seconds.", "write digits, or leave it empty")
        lives[name] = int(text or 0)
    return TrialWanted(
        ehr=values["ehr"],
        client_id=client_id,
        kind=values["kind"],
        launch_url=values["launch_url"].strip(),
        user=user,
        patient=patient,
        encounter=values["encounter"].strip() or values["visit"],
        intent=values["intent"].strip(),
        need_patient_banner=values["banner"] == "yes",
        scopes=" ".join(values["scopes"].split()),
        fault=values["fault"],
        access_life=lives["access_life"],
        refresh_life=lives["refresh_life"],
    )


def at_origin(url: str, clients: Sequence[Client], preferred: str) -> Client | None:
    """The registered app that an address belongs to: by the web origin of its launch or redirect addresses; best the preferred one."""
    origin = _origin(url)
    found = [one for one in clients if origin and origin in {_origin(each) for each in (one.launch_uri, *one.redirect_uris)}]
    return next((one for one in found if one.id == preferred), found[0] if found else None)


def apps_of(clients: Sequence[Client], ehr: str) -> tuple[App, ...]:
    """Those that count at this EHR, apps that a browser opens first."""
    listed = [
        App(one.id, one.name or one.id, bool(one.launch_uri or (one.registered or {}).get("client_uri"))) for one in clients if one.may_use(ehr)
    ]
    return tuple(sorted(listed, key=lambda one: (not one.opens, one.name.casefold())))


def faults() -> list[tuple[str, list[Fault]]]:
    """All of them, by the moment at which an app meets them."""
    return [(MOMENTS[moment], list(found)) for moment, found in groupby(FAULTS.values(), lambda one: one.moment)]


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        return f"{parts.scheme}://{parts.netloc.lower()}" if parts.scheme in ("http", "https") and parts.netloc else ""
    except ValueError:
        return ""
