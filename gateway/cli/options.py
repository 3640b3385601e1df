"""Options that commands share, and the settings that come of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.config import Loaded, load
from gateway.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def common(function: F) -> F:
    """`--config`, `--store` and `--ehr`, as every command that works on a gateway's state takes them."""
    for option in (
        click.option(
            "--ehr", multiple=True, metavar="NAME=URL", help="An EHR besides those of the settings, or the plain NAME of one. May be repeated."
        ),
        click.option("--store", metavar="URL", help="sqlite:///file or postgresql://..."),
        click.option(
            "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings, TOML. Without it, gateway.toml here if there is one."
        ),
    ):
        function = option(function)
    return function


def as_json(function: F) -> F:
    """`--json`."""
    return click.option("--json", "json_", is_flag=True, help="Print JSON, for programs.")(function)


def settings(config: Path | None, store: str | None = None, ehr: tuple[str, ...] = (), **flags: Any) -> Loaded:
    """The settings of this command. `ehr` holds NAME=URL, and plain names that `chosen` looks at. Raises ConfigError."""
    defined = tuple(one for one in ehr if "=" in one)
    return load(config=config, environ=os.environ, flags={"store": store, "ehr": defined, **flags})


def chosen(loaded: Loaded, ehr: tuple[str, ...]) -> str:
    """The name of the EHR that is meant: the one given with `--ehr`, or the only one there is. Raises ConfigError.

    Where no EHR is set at all, a plain name is taken as it is: the gateway that knows its URL may run elsewhere.
    """
    plain = [one for one in ehr if "=" not in one]  # a plain name chooses, also among those that are defined beside it
    named = tuple(dict.fromkeys(plain or [one.partition("=")[0] for one in ehr]))
    known = tuple(one.name for one in loaded.settings.ehrs)
    if len(named) == 1:
        return loaded.settings.ehr(named[0]).name if known else named[0]
    if len(known) == 1 and not named:
        return known[0]
    if not known:
        raise ConfigError("No EHR is set.", where="--ehr", fix="add --ehr NAME=URL, or [ehr.NAME] with its url to gateway.toml")
    raise ConfigError("There are several EHRs.", where="--ehr", fix=f"say which one: {', '.join(known)}")
