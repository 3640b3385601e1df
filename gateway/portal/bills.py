"""F36: bills in words, from Claim (what was sent to the plan) and ExplanationOfBenefit (what the plan decided). Never a bill itself.

Amounts are shown as written; a sum is made only where the plan gave parts and no total, and nothing is worked out that nobody said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gateway.errors import NotFound
from gateway.portal import words
from gateway.portal.chart import Ask, Chart, Standing, Status, Todo
from gateway.portal.words import Resource, codes, concept, many, pick, reference, text

# Adjudication and total categories: HL7 adjudication codes, and those of CARIN Blue Button 2.2.0 (C4BBAdjudication).
BILLED = frozenset({"submitted"})
PAID = frozenset({"benefit", "paidtoprovider"})
DISCOUNT = frozenset({"discount"})
OWED = frozenset({"memberliability"})
OWED_PARTS = frozenset({"deductible", "copay", "coinsurance", "noncovered"})

CLAIM_STATUSES: dict[str, Status] = {
    "active": Status("Sent to your plan", "Your plan has not decided yet.", "info"),
    "cancelled": Status("Cancelled", "Your clinic took this claim back."),
    "draft": Status("Not sent yet", "Your clinic has not sent this to your plan yet."),
}
DECIDED = Status("Decided", "Your plan has decided what it pays.", "good")
EOB_STATUSES: dict[str, Status] = {
    "active": DECIDED,
    "cancelled": Status("Cancelled", "Your plan took this back. It does not count any more."),
    "draft": Status("Not final", "Your plan has not finished this.", "info"),
}
UNKNOWN = Status("Status not known", "Ask your plan or your clinic.")
KINDS = {
    "institutional": "Hospital or clinic",
    "oral": "Teeth",
    "pharmacy": "Medicines",
    "professional": "Doctors and other staff",
    "vision": "Eyes",
}
"""http://terminology.hl7.org/CodeSystem/claim-type, in words."""
USES = {"preauthorization": "Asked your plan to agree in advance", "predetermination": "Asked your plan what it would pay"}


@dataclass(frozen=True, slots=True)
class Item:
    """One line of what was done."""

    what: str
    when: str
    billed: str
    paid: str = ""
    owed: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """One visit's money. Amounts as written, "" where nobody said. `sentences` say the same in words."""

    path: str
    title: str
    by: str
    when: str
    key: Any
    status: Status
    billed: str = ""
    paid: str = ""
    discount: str = ""
    owed: str = ""
    owes_something: bool = False
    sentences: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    target: str = ""

    @property
    def decided(self) -> bool:
        """By the plan."""
        return self.target.startswith("ExplanationOfBenefit/")


@dataclass(frozen=True, slots=True)
class BillList:
    """Newest first."""

    bills: tuple[Bill, ...]
    standing: Standing

    def one(self, target: str) -> Bill:
        """By `Type/id`. Raises NotFound."""
        found = next((bill for bill in self.bills if bill.target == target), None)
        if found is None:
            raise NotFound
        return found


async def listing(chart: Chart) -> BillList:
    """What the plan decided, and claims that it has not decided yet."""
    (claims, benefits), standing = await chart.gather(Ask("claims sent to your plan", "Claim"), Ask("what your plan paid", "ExplanationOfBenefit"))
    shown = [item for item in (*benefits.resources, *claims.resources) if text(item, "status") != "entered-in-error"]
    names = await chart.names([item for one in shown for item in (one.get("provider"), one.get("insurer"))])
    decided = {reference(item.get("claim")) for item in benefits.resources if text(item, "status") in ("active", "draft")}
    bills = [_bill(item, chart, names) for item in shown if f"Claim/{text(item, 'id')}" not in decided or not _is_claim(item)]
    return BillList(tuple(sorted(bills, key=lambda bill: bill.key, reverse=True)), standing)


async def one(chart: Chart, resource_type: str, id_: str) -> tuple[Bill, Standing]:
    """One claim or one decision of the plan. Raises FhirError."""
    resource, _, age = await chart.read_with_etag(resource_type, id_)
    names = await chart.names([resource.get("provider"), resource.get("insurer")])
    return _bill(resource, chart, names), Standing(chart.source, age)


def todo(view: BillList) -> tuple[Todo, ...]:
    """The newest decision by which something is owed."""
    bill = next((bill for bill in view.bills if bill.owes_something and bill.status is DECIDED), None)
    return () if bill is None else (Todo(f"Your plan says you owe {bill.owed}", bill.path, f"{bill.title}, {bill.when}", rank=5),)


def _bill(resource: Resource, chart: Chart, names: Mapping[str, str]) -> Bill:
    return _claim(resource, chart, names) if _is_claim(resource) else _benefit(resource, chart, names)


def _is_claim(resource: Resource) -> bool:
    return text(resource, "resourceType") == "Claim"


def _benefit(resource: Resource, chart: Chart, names: Mapping[str, str]) -> Bill:
    owed = _total(resource, OWED) or _sum_of(resource, OWED_PARTS)
    billed = _total(resource, BILLED)
    paid = _total(resource, PAID) or words.money(pick(resource, "payment", "amount"))
    discount = _total(resource, DISCOUNT)
    provider = _name(resource, "provider", names) or "Your clinic"
    plan = _name(resource, "insurer", names) or "Your plan"
    amount = _decimal(resource, OWED) if _total(resource, OWED) else _decimal(resource, OWED_PARTS)
    sentences = (
        f"{provider} billed {billed}." if billed else "The plan did not say what was billed.",
        f"{plan} paid {paid}." if paid else "The plan did not say what it paid.",
        f"The price was lowered by {discount}." if discount else "",
        f"You owe {owed}." if owed else "The plan did not say what you owe. Your clinic can tell you.",
    )
    return Bill(
        f"/portal/bills/plan/{text(resource, 'id')}",
        _title(resource) or provider,
        provider,
        _when(resource, chart),
        words.sort_key(_raw_when(resource)),
        EOB_STATUSES.get(text(resource, "status"), UNKNOWN),
        billed,
        paid,
        discount,
        owed,
        amount is not None and amount > 0,
        tuple(filter(None, sentences)),
        tuple(_item(item, chart) for item in many(resource, "item")),
        _facts(resource, plan, chart),
        tuple(found for note in many(resource, "processNote") if (found := text(note, "text"))),
        f"ExplanationOfBenefit/{text(resource, 'id')}",
    )


def _claim(resource: Resource, chart: Chart, names: Mapping[str, str]) -> Bill:
    provider = _name(resource, "provider", names) or "Your clinic"
    billed = words.money(resource.get("total"))
    status = CLAIM_STATUSES.get(text(resource, "status"), UNKNOWN)
    return Bill(
        f"/portal/bills/claim/{text(resource, 'id')}",
        _title(resource) or provider,
        provider,
        _when(resource, chart),
        words.sort_key(_raw_when(resource)),
        status,
        billed,
        sentences=(f"{provider} billed {billed}." if billed else "The claim does not say what was billed.", status.meaning),
        items=tuple(_item(item, chart) for item in many(resource, "item")),
        facts=_facts(resource, _name(resource, "insurer", names), chart),
        target=f"Claim/{text(resource, 'id')}",
    )


def _facts(resource: Resource, plan: str, chart: Chart) -> tuple[tuple[str, str], ...]:
    facts = (
        ("Kind of care", _kind(resource)),
        ("Purpose", USES.get(text(resource, "use"), "")),
        ("Plan", plan),
        ("Claim made on", words.day(text(resource, "created"), chart.zone)),
        ("What the plan decided", text(resource, "disposition")),
        ("Number for questions", text(resource, "identifier", "value")),
    )
    return tuple((label, value) for label, value in facts if value)


def _title(resource: Resource) -> str:
    """What was done: that tells one visit to a clinic from the next. "" when no line says it in words."""
    done = list(dict.fromkeys(found for item in many(resource, "item") if (found := _service(item))))
    return ", ".join(done[:2]) + (f" and {len(done) - 2} more" if len(done) > 2 else "")


def _service(item: Resource) -> str:
    """Never a bare code: a patient cannot read it."""
    service = item.get("productOrService")
    return text(service, "text") or next((found for coding in many(service, "coding") if (found := text(coding, "display"))), "")


def _kind(resource: Resource) -> str:
    kind = resource.get("type")
    return next((KINDS[code] for code in codes(kind) if code in KINDS), "") or concept(kind)


def _item(item: Resource, chart: Chart) -> Item:
    when = text(item, "servicedDate")
    return Item(
        concept(item.get("productOrService"), "Service without a name"),
        words.day(when, chart.zone) if when else words.period(item.get("servicedPeriod"), chart.zone),
        words.money(item.get("net")) or words.money(item.get("unitPrice")) or _pick_amount(item, BILLED),
        _pick_amount(item, PAID),
        _pick_amount(item, OWED),
    )


def _pick_amount(item: Resource, wanted: frozenset[str]) -> str:
    return next((words.money(part.get("amount")) for part in many(item, "adjudication") if wanted & set(codes(part.get("category")))), "")


def _total(resource: Resource, wanted: frozenset[str]) -> str:
    """The plan's own total of a category, as written; else the sum of its lines."""
    found = next((words.money(part.get("amount")) for part in many(resource, "total") if wanted & set(codes(part.get("category")))), "")
    return found or _sum_of(resource, wanted)


def _sum_of(resource: Resource, wanted: frozenset[str]) -> str:
    """The sum of totals, else of the lines' adjudications, in those categories. "" where there are none, or of several currencies."""
    amounts = _amounts(resource, wanted)
    currencies = {text(amount, "currency") for amount in amounts}
    numbers = _numbers(amounts)
    if not numbers or len(currencies) != 1:
        return ""
    if len(numbers) == 1:
        return words.money(next(amount for amount in amounts if words.number(amount.get("value")) is not None))
    return words.amount(str(sum(numbers, Decimal(0))), currencies.pop())


def _decimal(resource: Resource, wanted: frozenset[str]) -> Decimal | None:
    numbers = _numbers(_amounts(resource, wanted))
    return sum(numbers, Decimal(0)) if numbers else None


def _numbers(amounts: Iterable[Resource]) -> list[Decimal]:
    return [number for amount in amounts if (number := words.number(amount.get("value"))) is not None]


def _amounts(resource: Resource, wanted: frozenset[str]) -> list[Resource]:
    def within(parts: Sequence[Resource]) -> list[Resource]:
        return [amount for part in parts if wanted & set(codes(part.get("category"))) for amount in many(part, "amount")]

    lines = [part for item in many(resource, "item") for part in many(item, "adjudication")]
    return within(many(resource, "total")) or within(many(resource, "adjudication")) or within(lines)


def _name(resource: Resource, member: str, names: Mapping[str, str]) -> str:
    return text(resource, member, "display") or names.get(reference(resource.get(member)), "")


def _raw_when(resource: Resource) -> str:
    """When the care was given, else when the claim was made."""
    return (
        text(resource, "billablePeriod", "start")
        or next((found for item in many(resource, "item") if (found := text(item, "servicedDate"))), "")
        or text(resource, "created")
    )


def _when(resource: Resource, chart: Chart) -> str:
    return words.period(resource.get("billablePeriod"), chart.zone) or words.day(_raw_when(resource), chart.zone)
