"""The list of patients to choose from: searched, cut into pages, each with what tells one from another. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unicodedata import combining, normalize

from gateway.portal.faces import Face
from gateway.store.oauth_rows import ListedPatient

STEP = 20
_NOBODY = Face("", "", "")


@dataclass(frozen=True, slots=True)
class Choice:
    """One patient. `hint`: birth date and sex, or ""."""

    id: str
    name: str
    hint: str


@dataclass(frozen=True, slots=True)
class Picker:
    """A page of the list. `total`: of those that were found; `previous`, `next`: numbers of pages, or 0."""

    choices: tuple[Choice, ...]
    asked: str
    total: int
    page: int
    pages: int
    searchable: bool

    @property
    def previous(self) -> int:
        """The page before, or 0."""
        return self.page - 1

    @property
    def next(self) -> int:
        """The page after, or 0."""
        return self.page + 1 if self.page < self.pages else 0


def choice_of(patient: ListedPatient, faces: Mapping[str, Face]) -> Choice:
    """As the EHR knows the patient; else as the list does."""
    face = faces.get(patient.patient, _NOBODY)
    born = f"born {face.born}" if face.born else ""
    return Choice(patient.patient, face.name or patient.display or f"Patient {patient.patient}", ", ".join(part for part in (born, face.sex) if part))


def picker(patients: Sequence[ListedPatient], faces: Mapping[str, Face], *, asked: str = "", page: str = "") -> Picker:
    """The page `page` of those in whose name, birth date, sex or id every word of `asked` is found."""
    asked = " ".join(asked.split())[:100]
    wanted = _plain(asked).split()
    found = [
        one for one in (choice_of(each, faces) for each in patients) if all(word in _plain(f"{one.name} {one.hint} {one.id}") for word in wanted)
    ]
    pages = max(1, -(-len(found) // STEP))
    number = min(int(page), pages) if page.isascii() and page.isdigit() and len(page) < 6 and int(page) > 0 else 1
    return Picker(tuple(found[(number - 1) * STEP : number * STEP]), asked, len(found), number, pages, len(patients) > 5)


def _plain(text: str) -> str:
    """Without case and accents."""
    return "".join(letter for letter in normalize("NFKD", text.casefold()) if not combining(letter))
