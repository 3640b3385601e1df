"""HTML pages: one environment, one set of headers. Every page works without JavaScript, and none is ever stored by a browser or a proxy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

HERE = Path(__file__).parent
STATIC = HERE / "static"
SERVICE = "My health record"
EMERGENCY = "In an emergency, call your local emergency number (such as 911 or 112). Do not use this site."


class Signed(Protocol):
    """What every page says about the signed-in person: her name in the header and the token that guards her forms."""

    @property
    def account(self) -> Any:
        """Has a `display_name`."""
        ...

    @property
    def csrf(self) -> str:
        """Goes into each form as the hidden field `csrf`."""
        ...


class Pages:
    """Renders templates of gateway/web/templates. `public_url` is the address that browsers use, without a trailing slash."""

    def __init__(self, public_url: str, *, service: str = SERVICE, emergency: str = EMERGENCY) -> None:
        self.public_url = public_url.rstrip("/")
        self.service = service
        # StrictUndefined: a misspelt name is an error in a test, never an empty place on a patient's page.
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._shared: dict[str, Any] = {
            "service": service,
            "emergency": emergency,
            "css": f"/static/portal.css?v={_fingerprint(STATIC / 'portal.css')}",
            "nav": (),
            "record": None,
            "script": "",
        }

    def render(
        self,
        name: str,
        *,
        status: int = 200,
        person: Signed | None = None,
        form_targets: Sequence[str] = (),
        script: str = "",
        reads: bool = False,
        **context: Any,
    ) -> HTMLResponse:
        """The page `name` with the headers that every page has. `script`: a file of ours that this page needs, the only one that it may load.

        `reads`: the script may ask this site for more.
        `form_targets`: URLs to which the answer to a form of this page redirects outside the gateway (an app's redirect_uri at consent):
        browsers apply `form-action` to those redirects too.
        """
        address = f"/static/{script}?v={_fingerprint(STATIC / script)}" if script else ""
        html = self._environment.get_template(name).render(self._shared | {"person": person, "script": address} | context)
        return HTMLResponse(html, status, headers=page_headers(form_targets, script=bool(script), reads=reads))

    def static(self) -> StaticFiles:
        """The ASGI app to mount at /static."""
        return _Static(directory=STATIC)


def page_headers(form_targets: Sequence[str] = (), *, script: bool = False, reads: bool = False) -> dict[str, str]:
    """ATK-O18 (no framing), ATK-O34 (no referrer, no store), F44 (nothing inline, nothing from elsewhere). `script`: files of ours may run."""
    origins = dict.fromkeys(_origin(url) for url in form_targets)
    actions = " ".join(["'self'", *(origin for origin in origins if origin)])
    scripts = ("script-src 'self'; " if script else "") + ("connect-src 'self'; " if reads else "")
    policy = (
        f"default-src 'none'; style-src 'self'; img-src 'self'; font-src 'self'; manifest-src 'self'; {scripts}"
        f"form-action {actions}; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }


class _Static(StaticFiles):
    """Files whose address changes with their content, so that they may be kept for a year."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code in (200, 304):
            fixed = b"v=" in scope.get("query_string", b"")
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if fixed else "public, max-age=3600"
            response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _origin(url: str) -> str:
    """`https://app.example:8443` of a URL; a scheme alone (`com.example.app:`) for the redirect of a native app."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc and not set(parts.netloc) & set(" ;,'\"") else ""
    return f"{parts.scheme}:" if parts.scheme else ""


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]
