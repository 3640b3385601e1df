"""User names and passwords, and what a sign-in gives away: nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import Unavailable
from gateway.smart.server.people.accounts import Passwords, normalised
from gateway.web.people import HOME, ForgedForm, check, local_path


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Ann", "ann"),
        ("  ann ", "ann"),
        ("\uff21\uff2e\uff2e", "ann"),
        ("Straße", "strasse"),
        ("ﬁona", "fiona"),
        ("A\u0301nn", "ánn"),
        ("a\x00b", ""),
        ("a\u200bb", ""),
        ("", ""),
    ],
)
def test_one_spelling_of_a_name(written, name):
    """NFKC and case fold; what cannot be seen is no name."""
    assert normalised(written) == name


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("/portal/results?page=2", "/portal/results?page=2"),
        ("/", "/"),
        ("//evil.test", HOME),
        ("/\\evil.test", HOME),
        ("/%2fevil.test", HOME),
        ("%2f%2fevil.test", HOME),
        ("/%5cevil.test", HOME),
        ("https://evil.test", HOME),
        ("javascript:alert(1)", HOME),
        ("/a\r\nSet-Cookie: x", HOME),
        ("/a%0d%0aSet-Cookie: x", HOME),
        ("", HOME),
    ],
)
def test_only_paths_of_ours_are_gone_to(wanted, path):
    """No open redirect after sign-in."""
    assert local_path(wanted) == path


@pytest.mark.parametrize("form", [{}, {"csrf": ""}, {"csrf": "x"}, {"csrf": ["right"]}, {"csrf": "ü"}])
def test_forms_need_the_token(form):
    """ATK-O17."""
    with pytest.raises(ForgedForm):
        check("right", form)
    check("right", {"csrf": "right"})
    with pytest.raises(ForgedForm):
        check("", {"csrf": ""})


async def test_passwords():
    """argon2id with parallelism 1; composed and decomposed letters are the same password; too long is wrong."""
    passwords = Passwords(time_cost=1, memory=64)
    encoded = await passwords.hash("pässword")
    assert encoded.startswith("$argon2id$")
    assert ",p=1$" in encoded
    assert await passwords.verify(encoded, "pa\u0308ssword")
    assert not await passwords.verify(encoded, "password")
    assert not await passwords.verify(None, "pässword")
    assert not await passwords.verify("nonsense", "pässword")
    assert not await passwords.verify(encoded, "pässword" + "x" * 2000)
    passwords.close()


async def test_unknown_names_cost_the_same_time():
    """Without an account a hash of the same cost is computed. The quickest of many tries, taken in turns: the machine has other work."""
    passwords = Passwords(time_cost=2, memory=8192)
    encoded = await passwords.hash("right password")

    async def took(stored: str | None) -> float:
        began = time.perf_counter()
        await passwords.verify(stored, "wrong password")
        return time.perf_counter() - began

    tries = [(await took(encoded), await took(None)) for _ in range(15)]
    passwords.close()
    known, unknown = (min(times) for times in zip(*tries, strict=True))
    assert 0.5 < known / unknown < 2


async def test_sign_ins_never_stall_the_loop_and_never_pile_up():
    """argon2 works in threads of its own; beyond 64 that wait, the answer is 503 at once."""
    passwords = Passwords(time_cost=1, memory=64)
    encoded = await passwords.hash("right password")
    found = await asyncio.gather(*(passwords.verify(encoded, "right password") for _ in range(70)), return_exceptions=True)
    passwords.close()
    assert found.count(True) == 64
    assert sum(isinstance(one, Unavailable) for one in found) == 6
