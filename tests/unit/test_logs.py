"""Logs name events, requests and places, and nothing that was in a request."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from gateway import logs

SECRET = "Jane Doe, 1980-01-01"


@pytest.fixture
def configured():
    """Logs as a process sets them up; the test runner's own are put back."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield logs.configure
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def raise_chained() -> None:
    try:
        assert {}[SECRET]
    except KeyError as error:
        raise ValueError(f"no such patient: {SECRET}") from error


def test_an_exception_is_its_type_and_its_places():
    """The message may quote a resource, a query or a token; the chain is kept."""
    with pytest.raises(ValueError, match="no such patient") as caught:
        raise_chained()
    text = logs.described(caught.value)
    assert text.startswith("ValueError at test_logs.py:")
    assert "; from KeyError at test_logs.py:" in text
    assert SECRET not in text


def test_ours_and_those_of_libraries_hold_no_message(configured, capsys):
    """Whoever logs the exception, and in whichever way."""
    logging.getLogger("uvicorn").propagate = False  # as uvicorn's own set-up leaves it
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler())
    configured("json")
    try:
        raise_chained()
    except ValueError:
        structlog.get_logger("gateway.test").exception("unexpected", request_id="r1")
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["unexpected", "Exception in ASGI application"]
    assert all("ValueError at" in line["exception"] and SECRET not in json.dumps(line) for line in lines)
    assert lines[0]["request_id"] == "r1"
    assert lines[0]["logger"] == "gateway.test"


def test_text_is_one_line_for_each_event(configured, capsys):
    """For people: level, event, logger and what belongs to it."""
    configured("text")
    structlog.get_logger("gateway.test").info("refused", reason_id="scope-missing")
    logging.getLogger("httpx").info("HTTP Request: GET http://ehr/Patient?name=Doe")  # libraries speak from warnings on
    (line,) = capsys.readouterr().err.splitlines()
    assert "refused" in line
    assert "reason_id=scope-missing" in line
