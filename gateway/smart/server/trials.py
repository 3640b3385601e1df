"""The launcher: starts trials, and keeps what is seen of them. Off unless `[launcher] enabled = true`; never for production."""

from __future__ import annotations

from gateway.smart.server.faults import FAULTS, Fault
from gateway.smart.server.trial import COOKIE, Noted, Seen, Started, Trial, TrialWanted, Watch
from gateway.smart.server.values import Caller

__all__ = ["COOKIE", "FAULTS", "Fault", "Noted", "Seen", "Started", "Trial", "TrialWanted", "Trials", "Watch"]


class Trials:
    """A `Watch`, and what the launcher's page asks for."""

    async def start(self, wanted: TrialWanted, caller: Caller, by: str = "") -> Started:
        """A new trial, on record with the name of its fault. `by`: the id of a system with the right to launch; "" for the launcher's page.

        Started from the page, an EHR launch has a `user`: it counts for her alone, and reaches beyond the patients of her own list only for an
        account of `[launcher] users`. Raises ConfigError, whose `where` is the name of a field of `TrialWanted`.
        """
        raise NotImplementedError

    async def named(self, trial_id: str) -> Trial | None:
        """The trial with this id, while it lives."""
        raise NotImplementedError

    async def seen(self, trial_id: str, after: int = 0) -> tuple[Seen, ...]:
        """What was seen of it, numbers beyond `after`, in order, at most 200. Empty for an id that is none."""
        raise NotImplementedError

    async def session_for(self, username: str, ehr: str, caller: Caller, *, replaces: str = "") -> str:
        """The secret of a new web session for a developer's account of `[launcher] users`, without her password (`People.keep_session`).

        "" for anybody else: an account that is not listed, is closed, is of another EHR, or has a second factor or a passkey. On record.
        `replaces`: the session that the browser had until now.
        """
        raise NotImplementedError
