"""The people of the sandbox: who they are, who signs in as whom, and how their records get into an R4 server.

All of them are made up; they come from no data set. `folders(today)` is the same for the same day: a folder is what goes into a server together,
the clinic first. `load` sends each as a transaction of PUTs, so that loading again changes nothing but the versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import httpx
import msgspec

from gateway.errors import ConfigError
from gateway.sandbox.people_data import amara, clinic, elders, family, others
from gateway.sandbox.people_data.build import Folder, Resource

Say = Callable[[str], None]
DEFAULT_PASSWORD = "alder-street-demo"  # noqa: S105 - for a sandbox on loopback; the demo makes its own
_FHIR = "application/fhir+json"
encode = msgspec.json.Encoder(decimal_format="number").encode
"""Decimals are written as they are: `1.10`."""


@dataclass(frozen=True, slots=True)
class Account:
    """Someone to sign in as. `patients`: (id, name) of the records that he may open; the first is his own, or his first patient's."""

    username: str
    fhir_user: str
    display: str
    patients: tuple[tuple[str, str], ...]
    about: str
    password: str = field(default=DEFAULT_PASSWORD, repr=False)


def folders(today: date) -> tuple[Folder, ...]:
    """Everything that goes into the EHR, in the order in which it goes in."""
    joelle, henri, both = family.merciers(today)
    old, leila = others.leila(today)
    return (
        clinic.clinic(today),
        amara.amara(today),
        others.tomas(today),
        family.mina(today),
        family.daniel(today),
        elders.walter(today),
        elders.priya(today),
        joelle,
        henri,
        both,
        old,
        leila,
        others.noor(today),
        others.kwame(today),
        others.sofia(today),
        others.beatriz(today),
    )


_PATIENTS = {
    "amara": ("amara-okafor", "Amara Okafor", "the rich record: five years of results, medicines, messages, bills"),
    "daniel": ("daniel-reyes", "Daniel Reyes", "a father, who also sees the record of his daughter Mina"),
    "walter": ("walter-brandt", "Walter Brandt", "84 years old, fourteen medicines"),
    "priya": ("priya-venkataraman", "Priya Venkataraman", "150 clotting tests in six years"),
    "joelle": ("joelle-mercier", "Joëlle Mercier", "shares an appointment and a conversation with her husband"),
    "henri": ("henri-mercier", "Henri Mercier", "her husband"),
    "leila": ("leila-haddad", "Leila Haddad", "has an older record that was merged into this one"),
    "noor": ("noor-al-amin", "Noor Al-Amin", "expecting a child; writes in Arabic and English"),
    "kwame": ("kwame-boateng", "Kwame Boateng", "bills, one of them refused"),
    "sofia": ("sofia-petrova", "Sofia Petrova", "17 years old"),
    "tomas": ("tomas-lindqvist", "Tomas Lindqvist", "new: one result and nothing else"),
    "beatriz": ("beatriz-carvalho", "Beatriz Carvalho", "registered, with nothing in her record yet"),
}
CLINIC_SETTINGS = (
    'display = "Alder Street Clinic"',
    'phone = "+1-555-0100"',
    'timezone = "America/Panama"',  # five hours behind UTC all year, as the records are
    'replies_within = "3 working days"',
)
"""The clinic under `[ehr.NAME]`: what its pages say beside the record."""
_ALSO = {"daniel": (("mina-reyes", "Mina Reyes"),)}
_STAFF = ("dr.novak", "Practitioner/hana-novak", "Dr. Hana Novák", ("amara-okafor", "daniel-reyes", "priya-venkataraman"))


def roster() -> tuple[Account, ...]:
    """Who signs in: the patients, then a doctor with three listed patients."""
    names = {id_: name for id_, name, _ in _PATIENTS.values()}
    patients = [
        Account(username, f"Patient/{id_}", name, ((id_, name), *_ALSO.get(username, ())), about)
        for username, (id_, name, about) in _PATIENTS.items()
    ]
    username, fhir_user, display, listed = _STAFF
    return (*patients, Account(username, fhir_user, display, tuple((id_, names[id_]) for id_ in listed), "a doctor with three listed patients"))


def bundle(folder: Folder) -> bytes:
    """The folder as a transaction of PUTs, as exact JSON text."""
    entries = [{"resource": resource, "request": {"method": "PUT", "url": name}} for name, resource in named(folder)]
    return encode({"resourceType": "Bundle", "type": "transaction", "entry": entries})


def named(folder: Folder) -> list[tuple[str, Resource]]:
    """`Type/id` and resource, in loading order."""
    return [(f"{resource['resourceType']}/{resource['id']}", resource) for resource in folder.resources]


@dataclass(frozen=True, slots=True)
class Loaded:
    """How many resources were `written`, how many folders were there already, and what the server would not take: `Type/id: status`."""

    written: int
    skipped: int
    refused: tuple[str, ...]


async def load(base_url: str, what: Sequence[Folder], *, headers: Mapping[str, str], say: Say = print, again: bool = False) -> Loaded:
    """Put folders into an R4 server; those whose last resource is there already are left alone unless `again`.

    Where the server takes no transactions, or not this one, the resources go one by one, and what it refuses is named in the answer.
    Raises ConfigError when it cannot be reached, wants another credential, or fails.
    """
    async with httpx.AsyncClient(headers={**headers, "Accept": _FHIR, "Content-Type": _FHIR}, timeout=120) as client:
        loader = _Loader(client, base_url.rstrip("/"))
        skipped = 0
        for number, folder in enumerate(what, start=1):
            if not again and await loader.has(folder):
                skipped += 1
                continue
            count = len(folder.resources)
            say(f"Loading {number} of {len(what)}: {folder.title} ({count} resource{'' if count == 1 else 's'})")
            await loader.put(folder)
        return Loaded(loader.written, skipped, tuple(loader.refused))


_NO_TRANSACTIONS = frozenset({403, 404, 405, 501})
_NOT_THIS_ONE = frozenset({400, 409, 412, 413, 422})


class _Loader:
    """One server: whether it takes transactions is learned from its first answer."""

    def __init__(self, client: httpx.AsyncClient, base_url: str) -> None:
        self._client = client
        self._base_url = base_url
        self._transactions = True
        self.written = 0
        self.refused: list[str] = []

    async def has(self, folder: Folder) -> bool:
        """Whether the folder's last resource is there. A folder goes in whole, or in order."""
        answer = await self._send("GET", named(folder)[-1][0])
        return answer.status_code == 200

    async def put(self, folder: Folder) -> None:
        """As a transaction where that works, else one by one."""
        if not (self._transactions and await self._as_transaction(folder)):
            await self._one_by_one(folder)

    async def _as_transaction(self, folder: Folder) -> bool:
        status = (await self._send("POST", "", bundle(folder))).status_code
        if status in _NO_TRANSACTIONS:
            self._transactions = False
        elif status not in _NOT_THIS_ONE:
            self._expect(status in (200, 201), status)
            self.written += len(folder.resources)
            return True
        return False

    async def _one_by_one(self, folder: Folder) -> None:
        for name, resource in named(folder):
            status = (await self._send("PUT", name, encode(resource))).status_code
            if status in (200, 201):
                self.written += 1
            else:
                self._expect(status < 500, status)
                self.refused.append(f"{name}: {status}")

    async def _send(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        url = f"{self._base_url}/{path}" if path else self._base_url
        try:
            answer = await self._client.request(method, url, content=body)
        except httpx.HTTPError as error:
            raise ConfigError(f"The EHR could not be reached: {type(error).__name__}.", where=self._base_url, fix="is it running?") from error
        self._expect(answer.status_code != 401, 401)
        return answer

    def _expect(self, fine: bool, status: int) -> None:  # noqa: FBT001 - a condition, read where it is called
        if not fine:
            fix = "give it another credential" if status == 401 else "read its log"
            raise ConfigError(f"The EHR answered {status} while the people were loaded.", where=self._base_url, fix=fix)
