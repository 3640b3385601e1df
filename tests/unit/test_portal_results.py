"""What the results pages say: numbers as in the bytes, flags from the lab only, odd data shown as what it is."""

from __future__ import annotations

from datetime import date

import pytest

from gateway.fhir.json import parse_trusted
from gateway.portal import readings, results
from gateway.portal.readings import line_of
from tests.support.clinic import Clinic, lab, ref, rich, words
from tests.support.portal_chart import chart_of

WHEN = "2026-11-20T08:15:00-05:00"


def observed(value: bytes, more: bytes = b""):
    """An Observation as the portal reads it."""
    return parse_trusted(lab("o1", "Test", value, WHEN, more))


@pytest.mark.parametrize("number", ["1.10", "0.50", "1.0e3", "100", "-0.70", "1.0000000000000000001", "0"])
def test_a_number_is_shown_as_it_was_written(number):
    """`1.10` stays `1.10`: the text of the number in the EHR's bytes is the text on the page."""
    line = line_of(observed(b'"valueQuantity":{"value":%s,"unit":"mg/dL"}' % number.encode()))
    assert line.value == f"{number} mg/dL"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'"valueQuantity":{"value":5,"comparator":"<","unit":"mg/L"}', "<5 mg/L"),
        (b'"valueQuantity":{"value":98,"code":"mg/dL"}', "98 mg/dL"),
        (b'"valueQuantity":{"value":1.5,"code":"1"}', "1.5"),
        (b'"valueQuantity":{"unit":"mg/dL"}', ""),
        (b'"valueString":"Mixed flora"', "Mixed flora"),
        (b'"valueInteger":3', "3"),
        (b'"valueBoolean":false', "No"),
        (b'"valueCodeableConcept":{"coding":[{"display":"Not detected"}]}', "Not detected"),
        (b'"valueRange":{"low":{"value":2},"high":{"value":4.0}}', "2 to 4.0"),
        (b'"valueRange":{"low":{"value":2,"unit":"h"}}', "2 h or more"),
        (b'"valueRatio":{"numerator":{"value":1},"denominator":{"value":128}}', "1:128"),
        (b'"valueRatio":{"numerator":{"value":5,"unit":"mg"},"denominator":{"value":2,"unit":"mL"}}', "5 mg / 2 mL"),
        (b'"valueDateTime":"2026-03-05"', "5 March 2026"),
        (b'"valueTime":"10:30:00"', "10:30:00"),
        (b'"valuePeriod":{"start":"2026-03-05","end":"2026-03-06"}', "From 5 March 2026 to 6 March 2026"),
        (b'"dataAbsentReason":{"coding":[{"code":"not-performed"}]}', "The test was not done."),
        (b'"dataAbsentReason":{"text":"Sample lost"}', "Sample lost"),
        (b'"dataAbsentReason":{}', "There is no value."),
        (b'"valueQuantity":"odd"', ""),
        (b'"valueQuantity":{"value":true,"unit":"x"}', ""),
    ],
)
def test_every_kind_of_value_has_words(value, shown):
    """value[x], a missing value with its reason, and data of the wrong shape."""
    assert line_of(observed(value)).value == shown


@pytest.mark.parametrize(
    ("interpretation", "flag", "tone"),
    [
        (b'[{"coding":[{"code":"H"}]}]', "High", "warn"),
        (b'[{"coding":[{"code":"HH"}]},{"coding":[{"code":"A"}]}]', "Critically high, Not normal", "bad"),
        (b'[{"text":"See note"}]', "See note", ""),
        (b'[{"coding":[{"code":"ZZ","display":"Odd"}]}]', "Odd", ""),
        (b"[]", "", ""),
    ],
)
def test_a_flag_is_what_the_lab_said(interpretation, flag, tone):
    """Known codes in a patient's words, others by their text; nothing said is nothing shown."""
    line = line_of(observed(b'"valueQuantity":{"value":9}', b'"interpretation":' + interpretation))
    assert (line.flag, line.tone) == (flag, tone)


RANGE = b'"referenceRange":[{"low":{"value":3.5,"unit":"mmol/L"},"high":{"value":5.10,"unit":"mmol/L"}}]'


@pytest.mark.parametrize(
    ("value", "beside"),
    [
        (b'{"value":5.6,"unit":"mmol/L"}', "Outside the lab's range"),
        (b'{"value":5.1,"unit":"mmol/L"}', ""),
        (b'{"value":3.4,"unit":"mmol/L"}', "Outside the lab's range"),
        (b'{"value":5.6,"unit":"mg/dL"}', ""),
        (b'{"value":5.6,"unit":"mmol/L","comparator":"<"}', ""),
    ],
)
def test_no_flag_is_invented_from_the_range(value, beside):
    """Without a flag of the lab's, a value outside the range is said to be that; with another unit or a comparator nothing is said."""
    line = line_of(observed(b'"valueQuantity":' + value, RANGE))
    assert (line.flag, line.beside) == ("", beside)
    assert line.ranges == ("3.5 to 5.10 mmol/L",)


def test_the_labs_flag_leaves_no_remark_of_ours():
    """What the lab says stands alone."""
    line = line_of(observed(b'"valueQuantity":{"value":9,"unit":"mmol/L"}', RANGE + b',"interpretation":[{"coding":[{"code":"N"}]}]'))
    assert (line.flag, line.beside) == ("Normal", "")


@pytest.mark.parametrize(
    ("ranges", "born", "shown"),
    [
        (b'[{"text":"negative  (< 1:8)"}]', None, ("negative  (< 1:8)",)),
        (b'[{"low":{"value":60,"unit":"mL/min"}}]', None, ("60 mL/min or more",)),
        (b'[{"high":{"value":5}}]', None, ("5 or less",)),
        (b'[{"low":{"value":1,"unit":"g"},"high":{"value":2000,"unit":"mg"}}]', None, ("1 g to 2000 mg",)),
        (
            b'[{"text":"1-2","age":{"high":{"value":17,"code":"a"}}},{"text":"3-4","age":{"low":{"value":18,"code":"a"}}}]',
            date(1984, 3, 2),
            ("3-4",),
        ),
        (
            b'[{"text":"1-2","age":{"high":{"value":17,"code":"a"}}},{"text":"3-4","age":{"low":{"value":18,"code":"a"}}}]',
            date(2010, 1, 1),
            ("1-2",),
        ),
        (
            b'[{"text":"1-2","age":{"high":{"value":17,"code":"a"}}},{"text":"3-4","age":{"low":{"value":18,"code":"a"}}}]',
            None,
            ("1-2 (age 17 a or less)", "3-4 (age 18 a or more)"),
        ),
        (
            b'[{"text":"3-4","appliesTo":[{"text":"Female"}]},{"text":"5-6","appliesTo":[{"text":"Male"}]}]',
            None,
            ("3-4 (Female)", "5-6 (Male)"),
        ),
        (b'[{"text":"5-10","type":{"coding":[{"code":"therapeutic","display":"Therapeutic"}]}}]', None, ("5-10 (Therapeutic)",)),
        (b"[{}]", None, ()),
    ],
)
def test_ranges_stand_in_the_labs_own_words(ranges, born, shown):
    """Its text word for word, else its bounds; ranges of another age are left out only when that is sure."""
    assert line_of(observed(b'"valueQuantity":{"value":1}', b'"referenceRange":' + ranges), born).ranges == shown


def test_a_withdrawn_result_shows_nothing_to_rely_on():
    """Entered in error: named, dated, and no value, flag or range."""
    resource = observed(b'"valueQuantity":{"value":9.99}', RANGE) | {"status": "entered-in-error"}
    line = line_of(resource)
    assert (line.name, line.value, line.flag, line.ranges) == ("Test", "", "", ())
    assert line.status == readings.STATUSES["entered-in-error"]
    assert readings.components_of(resource | {"component": [{"valueString": "x"}]}) == []


async def test_the_list_holds_reports_with_their_results_and_single_results_newest_first():
    """A result that stands in a report is no line of its own; one in a withdrawn report is."""
    clinic = rich()
    view = await results.listing(chart_of(clinic))
    assert [row.title for row in view.rows] == [
        "Glucose",
        "Basic metabolic panel",
        "Blood pressure",
        "Rapid strep test",
        "Virus load",
        "Troponin",
        "Potassium",
        "Chest X-ray, two views",
    ]
    panel = view.rows[1]
    assert [(line.name, line.value) for line in panel.parts] == [
        ("Potassium", "5.60 mmol/L"),
        ("Creatinine", "1.10 mg/dL"),
        ("C-reactive protein", "<5 mg/L"),
    ]
    assert panel.status.word == "Early result"
    assert [line.value for line in view.rows[2].parts] == ["128 mmHg", "82 mmHg"]
    assert view.rows[5].parts == ()
    assert [key for key, _ in view.kinds] == ["lab", "vitals", "imaging"]
    assert view.of_kind("imaging") == (view.rows[7],)

    withdrawn = next(item for item in clinic.of_type("DiagnosticReport") if item["id"] == "panel") | {"status": "entered-in-error"}
    clinic.put(withdrawn)
    view = await results.listing(chart_of(clinic))
    assert {"Creatinine", "C-reactive protein"} <= {row.title for row in view.rows}
    assert next(row for row in view.rows if row.title == "Basic metabolic panel").parts == ()


async def test_a_result_without_any_code_or_category_or_date_still_shows():
    """Nothing that an EHR holds about her is hidden for being incomplete."""
    clinic = Clinic()
    clinic.put({"resourceType": "Observation", "id": "o1", "subject": ref("Patient/p1"), "valueString": "x"})
    (row,) = (await results.listing(chart_of(clinic))).rows
    assert (row.title, row.kind, row.when, row.status.word) == ("Test without a name", "other", "", "Status not known")
    assert row.parts[0].value == "x"


async def test_all_pages_are_followed_to_a_bound_and_the_page_says_when_there_is_more():
    """Five pages; then `more` names what was cut off."""
    clinic = Clinic(page_size=2)
    for number in range(13):
        clinic.put(lab(f"o{number}", "Sodium", b'"valueInteger":140', f"2026-01-{number + 1:02}"))
    view = await results.listing(chart_of(clinic))
    assert len(view.rows) == 10
    assert view.standing.more == ("single results",)
    clinic.page_size = 3
    view = await results.listing(chart_of(clinic))
    assert len(view.rows) == 13
    assert view.standing.more == ()


async def test_a_report_shows_contained_results_and_names_what_is_missing():
    """`#r1` stands in the report itself; a result that cannot be had is not passed over in silence."""
    clinic = Clinic()
    contained = parse_trusted(lab("r1", "Sodium", b'"valueInteger":140', WHEN))
    clinic.put(
        {
            "resourceType": "DiagnosticReport",
            "id": "d1",
            "status": "final",
            "code": words("Panel"),
            "subject": ref("Patient/p1"),
            "contained": [contained],
            "result": [ref("#r1"), ref("Observation/gone")],
        }
    )
    view = await results.report(chart_of(clinic), "d1")
    assert [(line.name, line.value, line.path) for line in view.parts] == [("Sodium", "140", "")]
    assert view.standing.missing == ("some of the results of this report",)


def potassium(id_: str, value: float, when: str, flag: str = "N"):
    """A potassium result of Amina's, final."""
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2823-3"}], "text": "Potassium"},
        "subject": ref("Patient/p1"),
        "effectiveDateTime": when,
        "valueQuantity": {"value": value, "unit": "mmol/L"},
        "interpretation": [{"coding": [{"code": flag}]}],
    }


async def test_results_of_one_test_on_one_day_are_told_apart_by_their_time():
    """Elsewhere the day is enough."""
    clinic = Clinic()
    for id_, when in (("a", "2026-11-20T08:00:00-05:00"), ("b", "2026-11-20T17:30:00-05:00"), ("c", "2026-11-19T08:00:00-05:00")):
        clinic.put(potassium(id_, 4.1, when))
    zone = "(UTC\N{MINUS SIGN}5)"
    whens = [f"20 November 2026, 5:30 pm {zone}", f"20 November 2026, 8:00 am {zone}", "19 November 2026"]
    assert [row.when for row in (await results.listing(chart_of(clinic))).rows] == whens
    detail = await results.observation(chart_of(clinic), "c")
    assert [line.when for line in detail.earlier] == whens[:2]


async def test_the_list_shows_what_the_lab_flagged_however_long_the_report():
    """A report of many parts is cut in the list, but never so that what asks for attention is hidden; the lab's order stays."""
    clinic = Clinic()
    for number in range(7):
        clinic.put(potassium(f"k{number}", 4 + number, "2026-11-20T08:00:00-05:00", "HH" if number == 6 else "H" if number == 4 else "N"))
    report = {"resourceType": "DiagnosticReport", "id": "r", "status": "final", "code": {"text": "Panel"}, "subject": ref("Patient/p1")}
    clinic.put(report | {"effectiveDateTime": "2026-11-20", "result": [ref(f"Observation/k{number}") for number in range(7)]})
    (row,) = (await results.listing(chart_of(clinic))).rows
    assert [line.value for line in row.shown] == ["4 mmol/L", "5 mmol/L", "8 mmol/L", "10 mmol/L"]
    assert [line.flag for line in row.critical] == ["Critically high"]
    assert (await results.report(chart_of(clinic), "r")).critical


async def test_a_critical_result_stands_first_and_by_its_name():
    """Nobody has to find it among "3 new results"; whom to call stands beside it."""
    clinic = Clinic()
    clinic.put(potassium("k", 6.5, "2026-11-20T08:00:00-05:00", "HH"))
    clinic.put(potassium("l", 4.5, "2026-11-21T08:00:00-05:00"))
    first, second = results.todo(await results.listing(chart_of(clinic)), date(2026, 11, 22))
    assert (first.title, first.path, first.rank) == ("Critically high: Potassium", "/portal/results/observation/k", 0)
    assert first.detail == "6.5 mmol/L, 20 November 2026. If your clinic has not talked to you about it, call 555 0100 now."
    assert second.title == "2 new results in the last 14 days"
    clinic = Clinic()
    clinic.put(potassium("k", 6.5, "2026-11-20T08:00:00-05:00", "HH"))
    (only,) = results.todo(await results.listing(chart_of(clinic)), date(2026, 11, 22))
    assert only.title == "Critically high: Potassium"


async def test_the_list_leaves_out_ranges_for_other_ages():
    """As the page of the result does."""
    clinic = Clinic()
    clinic.put({"resourceType": "Patient", "id": "p1", "birthDate": "2020-06-01"})
    years = [{"value": age, "code": "a"} for age in (2, 6, 7, 12)]
    ranges = [
        {"text": "11.0 to 14.0", "age": {"low": years[0], "high": years[1]}},
        {"text": "11.5 to 15.5", "age": {"low": years[2], "high": years[3]}},
    ]
    clinic.put(potassium("h", 11.8, "2026-11-20T08:00:00-05:00") | {"referenceRange": ranges})
    (row,) = (await results.listing(chart_of(clinic))).rows
    assert row.parts[0].ranges == ("11.0 to 14.0",)


async def test_one_result_has_its_earlier_values_and_who_did_it():
    """Same system and code only; the value itself is not among the earlier ones."""
    view = await results.observation(chart_of(rich()), "k1")
    assert view.title == "Potassium"
    assert view.line is not None
    assert (view.line.value, view.line.flag, view.line.ranges) == ("5.60 mmol/L", "High", ("3.5 to 5.1 mmol/L",))
    assert [(line.value, line.when) for line in view.earlier] == [("4.2 mmol/L", "2 May 2026")]


async def test_a_report_has_its_conclusion_and_only_plain_text_documents():
    """HTML or a wrong encoding is named, never shown."""
    clinic = rich()
    view = await results.report(chart_of(clinic), "xray")
    assert view.notes == ("No sign of pneumonia.",)
    assert view.documents == (results.Document("Radiology report", "Lungs are clear.\n"),)
    form = {"contentType": "text/html", "data": "PHNjcmlwdD4=", "title": "Page"}
    clinic.put(next(item for item in clinic.of_type("DiagnosticReport") if item["id"] == "xray") | {"presentedForm": [form]})
    assert (await results.report(chart_of(clinic), "xray")).documents == (results.Document("Page"),)


async def test_panels_within_panels_show_their_parts():
    """HasMember is followed, in order."""
    clinic = Clinic()
    clinic.put(
        lab("top", "Panel", b'"hasMember":[{"reference":"Observation/sub"}]', WHEN),
        lab("sub", "Sub-panel", b'"hasMember":[{"reference":"Observation/leaf"},{"reference":"Observation/top"}]', WHEN),
        lab("leaf", "Sodium", b'"valueInteger":140', WHEN),
    )
    view = await results.observation(chart_of(clinic), "top")
    assert [line.name for line in view.parts[:2]] == ["Sub-panel", "Sodium"]


async def test_todo_names_what_is_new():
    """One by its name, several by their number; withdrawn ones are no news."""
    view = await results.listing(chart_of(rich()))
    (item,) = results.todo(view, date(2026, 11, 22))
    assert (item.title, item.detail) == ("3 new results in the last 14 days", "Glucose, Basic metabolic panel, Blood pressure")
    assert results.todo(view, date(2027, 2, 1)) == ()
    (item,) = results.todo(view, date(2026, 12, 5))
    assert item.title == "New result: Glucose"
