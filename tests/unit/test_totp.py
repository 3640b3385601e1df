"""Codes of authenticator apps: the published vectors, and when a code is of which step."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from gateway.smart.server.people import totp
from gateway.web.qr import qr_code

SECRET = b"12345678901234567890"
AT = datetime(2026, 11, 25, 12, 0, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037"), (20000000000, "353130")],
)
def test_the_vectors_of_rfc_6238(seconds, code):
    """Appendix B, the last six of their eight digits."""
    moment = datetime.fromtimestamp(seconds, UTC)
    assert totp.code(SECRET, totp.step_at(moment)) == code
    assert totp.step_of(SECRET, code, moment) == totp.step_at(moment)


@pytest.mark.parametrize(("drift", "counts"), [(-60, False), (-30, True), (0, True), (30, True), (60, False)])
def test_one_step_of_drift_each_way(drift, counts):
    """RFC 6238 section 5.2: slow networks and clocks that are ahead, no more."""
    entered = totp.code(SECRET, totp.step_at(AT + timedelta(seconds=drift)))
    assert (totp.step_of(SECRET, entered, AT) is not None) == counts


@pytest.mark.parametrize("entered", ["", "12345", "1234567", "abcdef", "\uff11\uff12\uff13\uff14\uff15\uff16", "-12345", "12 34", "123456\n7"])
def test_what_is_no_code_is_of_no_step(entered):
    """ASCII digits, six of them."""
    assert totp.step_of(SECRET, entered, AT) is None


def test_a_code_may_be_typed_as_apps_show_it():
    """123 456."""
    code = totp.code(SECRET, totp.step_at(AT))
    assert totp.step_of(SECRET, f"{code[:3]} {code[3:]}", AT) == totp.step_at(AT)


def test_the_address_in_the_picture():
    """Issuer and account are escaped; the secret is base32, which apps and people can type."""
    parts = urlsplit(totp.uri(SECRET, account="ann b@c", service="My record: A/B"))
    assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
    assert unquote(parts.path) == "/My record: A/B:ann b@c"
    asked = parse_qs(parts.query)
    assert base64.b32decode(asked["secret"][0]) == SECRET
    assert (asked["digits"], asked["period"], asked["issuer"]) == (["6"], ["30"], ["My record: A/B"])
    assert len(totp.new_secret()) == 20
    assert totp.new_secret() != totp.new_secret()


def test_the_picture_is_one_path():
    """With its quiet zone, and nothing in it but numbers and moves."""
    code = qr_code(totp.uri(SECRET, account="ann", service="Record"))
    assert code.size > 40
    assert code.path.startswith("M4 4h7v1h-7z")  # the corner square, behind four modules of white
    assert set(code.path) <= set("Mhvz- 0123456789")
