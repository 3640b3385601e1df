"""A transaction: all of it happens or nothing, so that one sign tells whether an earlier attempt did it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from gateway.errors import PreconditionFailed
from gateway.fhir.interaction import Interaction, Kind
from gateway.ingest import identifier, plan, posted, stored
from gateway.ingest.hand import ROUNDS, Hand
from gateway.ingest.identifier import There
from gateway.ingest.posted import Unconfirmed
from gateway.ingest.stored import StoredAnswer
from gateway.store.inbox_rows import Entry


@dataclass(frozen=True, slots=True)
class Transaction:
    """A Bundle as it was pushed, and a row for each entry."""

    hand: Hand
    asked: Interaction
    entries: tuple[Entry, ...]

    async def deliver(self) -> StoredAnswer:
        """Raises FhirError, OutcomeUnknown, Unconfirmed or Fenced."""
        unknown = self.hand.attempts > 1 or any(entry.tried for entry in self.entries)
        rows = self.entries
        for _ in range(ROUNDS):
            if unknown and await self._happened():
                return stored.as_delivered(await self._located(), self.hand.base)
            unknown = False
            rows = await self.hand.without_ids(rows, plan.refused_ids(rows, self.hand.offers))
            seen = {entry.position: await self.hand.version(part) for part, entry in self._updates() if not part.conditions.if_match}
            there = await self._there(rows)
            try:
                return await self._send_all(rows, seen, there)
            except PreconditionFailed:
                if not seen and not there:
                    raise
        raise PreconditionFailed("The records kept changing.", reason="version-changed")

    async def _send_all(self, rows: tuple[Entry, ...], seen: Mapping[int, str], there: Mapping[int, There | None]) -> StoredAnswer:
        """`seen`: the versions of updates; `there`: what stands under the identifiers of the creates that go as POST."""
        guards = {at: guard for at, one in there.items() if (guard := self.hand.posts.guard(one))}
        sent = plan.transaction(self.asked, rows, {at: version for at, version in seen.items() if version}, guards)
        marks = {at: posted.seen(one) for at, one in there.items()}
        stood = {at: part.conditions.if_match or None for at, part in enumerate(self.asked.entries)}
        await self.hand.lease.sending({**stood, **seen, **marks})
        if not there:
            return await self.hand.send(sent)
        async with posted.posting(self.hand.lease, tuple(there)):
            return await self.hand.send(sent)

    async def _happened(self) -> bool:
        """Whether an earlier attempt did it: all of it or nothing, so that one sign is enough. Raises Unconfirmed without any."""
        made = [entry for entry in self.entries if entry.kind == Kind.CREATE and entry.target]
        if made:
            return await self.hand.exists(made[0])
        posts = [row for row in self._posted(self.entries) if row.tried]
        if sign := next((row for row in posts if row.seen == ""), None):
            return bool(posted.ours(sign, (await self._there((sign,)))[sign.position]))
        happened = await self._by_update()
        if happened is None and posts:
            raise Unconfirmed
        return bool(happened)

    async def _by_update(self) -> bool | None:
        """What an update of the transaction tells. None: nothing, be it that what it would write is what stands there."""
        for part, entry in self._updates():
            if entry.seen is None or (entry.seen and await self.hand.version(part) == entry.seen):
                continue
            if not entry.seen and not await self.hand.exists(entry):
                return False
            return await self.hand.is_ours(part, entry.seen)
        return None

    def _posted(self, rows: Collection[Entry]) -> list[Entry]:
        """The creates that go as POST without a condition of their sender's."""
        return [row for row in rows if row.kind == Kind.CREATE and not row.target and not self.asked.entries[row.position].conditions.if_none_exist]

    async def _there(self, rows: Collection[Entry]) -> Mapping[int, There | None]:
        """What stands under the identifier of each of those, by position."""
        posts = self._posted(rows)
        if not posts:
            return {}
        own = identifier.of_parts(self.asked.entries)
        return {row.position: await self.hand.posts.look(self.asked.entries[row.position], own.get(row.position)) for row in posts}

    async def _located(self) -> tuple[Entry, ...]:
        """The entries, with the ids that the EHR gave, as far as they can be found."""
        there = await self._there(self.entries)
        return tuple(replace(row, target=posted.place(row, there[row.position])) if row.position in there else row for row in self.entries)

    def _pairs(self) -> list[tuple[Interaction, Entry]]:
        return list(zip(self.asked.entries, self.entries, strict=True))

    def _updates(self) -> list[tuple[Interaction, Entry]]:
        return [(part, entry) for part, entry in self._pairs() if part.kind is Kind.UPDATE]
