"""Readers at both processes while something fails: no answer may be older than what was acknowledged before it was asked for."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.support.jobs_scene import EHR, Scene, eventually


@dataclass
class Watch:
    """Readers at both processes all the while. `least`: what was acknowledged; no answer to a request made after that may be older."""

    at: Scene
    target: str
    least: int = 0
    answers: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def read(self, process: int) -> None:
        token, path = self.at.app_token(), (self.target, f"Observation?_id={self.target.partition('/')[2]}")
        with httpx.Client(
            base_url=f"{self.at.urls[process]}/fhir/{EHR}/", headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        ) as http:
            while not self.stop.is_set():
                least, begun = self.least, time.monotonic()
                answer = http.get(path[self.answers % 2])
                self.slowest = max(self.slowest, time.monotonic() - begun)
                found = re.search(r'"valueInteger"\s*:\s*(\d+)', answer.text)
                if answer.status_code != 200 or not found or int(found[1]) < least:
                    self.wrong.append(f"{answer.status_code} {found and found[1]} where {least} was acknowledged")
                self.answers += 1
                time.sleep(0.01)

    def push(self, times: int = 2) -> None:
        """Change it, through the one and the other process."""
        id_ = self.target.partition("/")[2]
        for turn in range(times):
            value = self.least + 1
            answer = self.at.push("PUT", self.target, self.at.pushed(valueInteger=value) | {"id": id_}, process=turn % 2)
            assert answer.status_code in (200, 201), answer.text
            self.least = value

    def look(self, least: int = 20) -> None:
        """Let the readers go on for so many answers more."""
        until = self.answers + least
        eventually(lambda: self.answers >= until)


@contextmanager
def watching(at: Scene) -> Iterator[Watch]:
    """Read at both processes while the block goes on; no answer may have been wrong."""
    watch = Watch(at, f"Observation/watched-{secrets.token_hex(4)}")
    at.app_token()
    watch.push(1)
    readers = [threading.Thread(target=watch.read, args=(process,)) for process in (0, 1)]
    for one in readers:
        one.start()
    try:
        watch.look()
        watch.push()
        yield watch
        watch.look()
    finally:
        watch.stop.set()
        for one in readers:
            one.join(30)
    assert watch.wrong == []
    assert watch.slowest < 5
