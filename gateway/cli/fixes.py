"""What a command says when something was not done: which of its arguments that is about, and what to type instead."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from gateway.errors import ConfigError, NotDone

_FIXES: Mapping[str, str] = {
    "access-unknown": "gateway grant list shows what there is",
    "account-elsewhere": "gateway user add NAME --ehr EHR --fhir-user ...",
    "account-unknown": "gateway user list shows who there is",
    "client-disabled": "gateway client show tells since when",
    "client-elsewhere": "gateway client register --from FILE",
    "client-in-use": "gateway client list shows which are",
    "client-moved": "look at it with gateway client show, and try again",
    "client-not-as-seen": "if it may come in as it is: gateway client approve {client_id} --version {version}",
    "client-not-waiting": "gateway client list shows which do",
    "client-unknown": "gateway client list shows them",
    "invite-unknown": "gateway client invites shows them",
    "keys-rotating": "wait until gateway keys list says that it signs; if a key was stolen, add --at-once",
    "whose-unsaid": "give --user NAME, or --client ID, or both",
}
"""By `NotDone.what`, where a command helps; elsewhere its own `fix` says what would be right."""


def explained(error: NotDone, flags: Mapping[str, str]) -> ConfigError:
    """As the command line says it. `flags`: by `NotDone.about`, how the command calls it."""
    fix = _FIXES.get(error.what, "").format(**error.facts) or error.fix
    return ConfigError(error.message, where=flags.get(error.about, ""), fix=fix)


@contextmanager
def explaining(flags: Mapping[str, str]) -> Generator[None]:
    """What is not done in this block is explained."""
    try:
        yield
    except NotDone as error:
        raise explained(error, flags) from error
