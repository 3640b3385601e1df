"""What a process remembers: bounded in bytes, forgotten by name."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.cache import remembered
from gateway.cache.counts import Counts
from gateway.cache.remembered import Remembered


def _put(memory: Remembered[str, str], key: str, *names: str, **more: Any) -> bool:
    return memory.put(key, key.upper(), **{"size": 10, "names": names, "mark": memory.mark, "until": 100, **more})


def _made(size: int = 100, now: float = 0) -> Remembered[str, str]:
    return Remembered(size, clock=lambda: now)


def test_gives_back_until_its_time_is_over():
    """A value of its own, until a moment."""
    now = [0.0]
    memory: Remembered[str, str] = Remembered(100, clock=lambda: now[0])
    assert _put(memory, "a", "n")
    assert (memory.get("a"), memory.get("b")) == ("A", None)
    now[0] = 100
    assert memory.get("a") is None
    assert (len(memory), memory.size) == (0, 0)


def test_a_name_takes_everything_that_depends_on_it():
    """And nothing else; it says how many."""
    memory = _made()
    _put(memory, "a", "one", "all")
    _put(memory, "b", "two", "all")
    assert memory.drop(["one", "unknown"]) == 1
    assert (memory.get("a"), memory.get("b")) == (None, "B")
    assert memory.drop(["all"]) == 1
    assert memory.size == 0


def test_what_was_read_before_a_drop_is_not_kept_after_it():
    """The names may be known only when the value is there: what counts is when reading it began."""
    memory = _made()
    mark = memory.mark
    memory.drop(["one"])
    assert not _put(memory, "a", "one", mark=mark)
    assert _put(memory, "b", "two", mark=mark)
    assert _put(memory, "a", "one")
    mark = memory.mark
    memory.clear()
    assert not _put(memory, "c", "three", mark=mark)
    assert len(memory) == 0


def test_it_does_not_have_to_know_every_name_that_was_ever_dropped(monkeypatch):
    """Beyond a number of names, what began before the oldest known drop is not kept."""
    monkeypatch.setattr(remembered, "_DROPS", 2)
    memory = _made()
    mark = memory.mark
    for name in ("one", "two", "three"):
        memory.drop([name])
    assert not _put(memory, "a", "other", mark=mark)
    assert _put(memory, "a", "other", mark=memory.mark)
    assert len(memory._dropped) == 2


def test_it_stays_within_its_bytes():
    """What was used longest ago goes first; what is alone too large is not kept; 0 bytes keep nothing."""
    memory = _made(30)
    for key in "abc":
        _put(memory, key)
    memory.get("a")
    _put(memory, "d")
    assert [key for key in "abcd" if memory.get(key)] == ["a", "c", "d"]
    assert not _put(memory, "e", size=31)
    assert not _put(_made(0), "a", size=1)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abcdef"), st.lists(st.sampled_from("xyz"), max_size=3), st.integers(1, 40)),
            st.tuples(st.just("drop"), st.sampled_from("xyz")),
            st.tuples(st.just("forget"), st.sampled_from("abcdef")),
            st.tuples(st.just("clear")),
        )
    )
)
def test_the_books_are_right(steps: list[tuple[Any, ...]]):
    """Whatever the order: bytes and names are those of what is there."""
    memory = _made(100)
    for what, *given_ in steps:
        if what == "put":
            key, names, size = given_
            _put(memory, key, *names, size=size)
        else:
            getattr(memory, what)(*given_)
        entries = memory._entries
        assert memory.size == sum(one.size for one in entries.values()) <= 100
        assert memory._by_name == {name: {key for key, one in entries.items() if name in one.names} for one in entries.values() for name in one.names}


def test_counts_are_news_once():
    """By name, in order; nothing when nothing happened."""
    counts = Counts()
    assert counts.news() == {}
    counts.add("kept")
    counts.add("found", 2)
    assert list(counts.news().items()) == [("found", 2), ("kept", 1)]
    assert counts.news() == {}
