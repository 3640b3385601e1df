"""One run that compares: cached and cold answers of the gateway with nginx's and with the EHR's own. `scripts/bench` calls it.

What is measured shares one core; load generator, EHR and Valkey have the others. The targets take turns, several rounds long, so that a machine
that is slower for a while is slower for all of them; a line is the median of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.load import Sample, Target, generator, load
from bench.scene import READ, Cores, Scene, scene

RATIOS = (
    ("gateway: cached read", "nginx proxy_cache hit: read"),
    ("gateway: cached search", "nginx proxy_cache hit: search"),
    ("gateway: cached read", "bare uvicorn"),
    ("gateway: cached read", "EHR: read"),
    ("gateway: cached search", "EHR: search"),
    ("gateway: cold read", "EHR: read"),
    ("gateway: cold search", "EHR: search"),
    ("gateway: cold read", "nginx proxy_pass: read"),
    ("gateway: cold search", "nginx proxy_pass: search"),
)


@dataclass(frozen=True)
class Row:
    """The medians of a target's rounds, and how far apart its slowest and fastest were. `hits`: of answers that were looked at meanwhile."""

    rate: float
    low: float
    high: float
    p50: float
    p99: float
    cpu: float  # microseconds of its server's processor time for one request; 0 where the server is not ours
    failed: int
    hits: str


def main() -> int:
    """The exit code: 1 when an answer was not what it should have been."""
    options = _options()
    cores = Cores.found()
    say(machine(cores, options))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder, scene(Path(folder), cores, options.ehr) as running:
        wrong = list(_wrong(running))
        if wrong:
            say("\n".join(wrong))
            return 1
        table = measured(running.targets(), options)
    report(table, as_json=options.json)
    say(f"{time.monotonic() - began:.0f} s in all")
    return int(any(row.failed for row in table.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ehr", default="", metavar="URL", help="an EHR that runs already; eleven resources are written to it")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one target in one round")
    parser.add_argument("--only", default="", metavar="WORD", help="only targets whose name has this word")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def machine(cores: Cores, options: argparse.Namespace) -> str:
    """What the figures depend on."""
    placed = f"core {sorted(cores.measured)} for what is measured, {sorted(cores.rest)} for load, EHR and Valkey"
    return (
        f"Python {platform.python_version()}, {platform.machine()}, {placed}; load by {generator()}, {options.connections} connections, "
        f"median of {options.rounds} rounds of {options.seconds:.0f} s; EHR: {options.ehr or 'the double of the package'}"
    )


def _wrong(running: Scene) -> Iterator[str]:
    """Warm everything up, and see that each target answers with what its name says."""
    for target in running.targets():
        for _ in range(3):
            answer = httpx.get(target.url, headers=dict(target.headers), trust_env=False, timeout=30)
        status, cache = answer.headers.get("cache-status", ""), answer.headers.get("x-nginx-cache", "")
        fits = {"cached": status.startswith("gateway; hit"), "cold": status.startswith("gateway; fwd=request"), "hit": cache == "HIT"}
        bad = [word for word, fit in fits.items() if f" {word}" in target.name and not fit]
        if answer.status_code != 200 or bad:
            yield f"{target.name}: {answer.status_code} {status}{cache}"
        elif target.url.endswith(READ):
            assert 2500 < len(answer.content) < 3500, (target.name, len(answer.content))


def measured(targets: list[Target], options: argparse.Namespace) -> dict[str, Row]:
    """Rounds of all targets, one after the other."""
    samples: dict[str, list[Sample]] = {}
    spent: dict[str, list[float]] = {}
    hits: dict[str, list[bool]] = {}
    for number in range(options.rounds):
        for target in targets:
            if options.only in target.name:
                before = cpu(target.pid)
                sample, seen = asyncio.run(_watched(target, options))
                samples.setdefault(target.name, []).append(sample)
                spent.setdefault(target.name, []).append((cpu(target.pid) - before) / max(1.0, sample.rate * options.seconds) * 1e6)
                hits.setdefault(target.name, []).extend(seen)
        say(f"round {number + 1} of {options.rounds}")
    return {name: _row(found, statistics.median(spent[name]), hits[name]) for name, found in samples.items()}


def cpu(pid: int) -> float:
    """Seconds of processor time that a process and its children have used (proc(5), fields 14 and 15 of stat); 0 where that is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(cpu(int(child)) for child in children)


async def _watched(target: Target, options: argparse.Namespace) -> tuple[Sample, list[bool]]:
    """A run, and now and then one request of ours beside it that looks whether the answer still came from the cache."""
    seen: list[bool] = []
    work = asyncio.create_task(asyncio.to_thread(load, target, connections=options.connections, seconds=options.seconds))
    async with httpx.AsyncClient(headers=dict(target.headers), trust_env=False, timeout=30) as http:
        while not work.done():
            if "cached" in target.name:
                seen.append((await http.get(target.url)).headers.get("cache-status", "").startswith("gateway; hit"))
            await asyncio.sleep(0.05)
    return await work, seen


def _row(samples: list[Sample], spent: float, seen: list[bool]) -> Row:
    rates = sorted(sample.rate for sample in samples)
    return Row(
        statistics.median(rates),
        rates[0],
        rates[-1],
        statistics.median(sample.p50 for sample in samples),
        statistics.median(sample.p99 for sample in samples),
        spent,
        sum(sample.failed for sample in samples),
        f"{sum(seen)}/{len(seen)}" if seen else "",
    )


def report(table: dict[str, Row], *, as_json: bool) -> None:
    """Both tables, rates and ratios."""
    pairs = [(one, other, table[one], table[other]) for one, other in RATIOS if one in table and other in table]
    ratios = [(one, other, mine.rate / theirs.rate, theirs.cpu / mine.cpu if mine.cpu and theirs.cpu else 0.0) for one, other, mine, theirs in pairs]
    if as_json:
        print(json.dumps({"rows": {name: vars(row) for name, row in table.items()}, "ratios": ratios}, indent=1))
        return
    print(f"\n{'':32}{'req/s':>8}  {'(lowest .. highest)':^20}{'p50 ms':>8}{'p99 ms':>8}{'CPU µs':>8}{'failed':>8}  hits seen")
    for name, row in table.items():
        spread = f"({row.low:.0f} .. {row.high:.0f})"
        print(f"{name:32}{row.rate:8.0f}  {spread:^20}{row.p50:8.2f}{row.p99:8.2f}{row.cpu:8.0f}{row.failed:8}  {row.hits}")
    print(f"\n{'':66}{'req/s':>7}{'CPU':>7}")
    for one, other, rate, processor in ratios:
        print(f"{one:32}/ {other:32}{rate:7.3f}{f'{processor:.3f}' if processor else '':>7}")


def say(text: str) -> None:
    """A line about the run itself."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
