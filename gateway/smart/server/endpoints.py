"""The addresses of one EHR's authorization server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All addresses of one EHR's authorization server, from configuration and never from a request (ATK-O31)."""

    public_url: str  # without a trailing slash
    ehr: str

    @property
    def base(self) -> str:
        """The FHIR base, which is the issuer too."""
        return f"{self.public_url}/fhir/{self.ehr}"

    @property
    def _auth(self) -> str:
        return f"{self.public_url}/auth/{self.ehr}"

    @property
    def authorize(self) -> str:
        """Authorization endpoint."""
        return f"{self._auth}/authorize"

    @property
    def token(self) -> str:
        """Token endpoint."""
        return f"{self._auth}/token"

    @property
    def par(self) -> str:
        """Pushed authorization requests (RFC 9126)."""
        return f"{self._auth}/par"

    @property
    def introspect(self) -> str:
        """Introspection endpoint (RFC 7662)."""
        return f"{self._auth}/introspect"

    @property
    def revoke(self) -> str:
        """Revocation endpoint (RFC 7009)."""
        return f"{self._auth}/revoke"

    @property
    def register(self) -> str:
        """Where clients register themselves (RFC 7591)."""
        return f"{self._auth}/register"

    @property
    def jwks(self) -> str:
        """Public keys of id_tokens."""
        return f"{self._auth}/jwks"

    @property
    def manage(self) -> str:
        """Where a person sees the apps that she connected, and takes their access back."""
        return f"{self.public_url}/apps"

    @property
    def style(self) -> str:
        """SMART styling (`smart_style_url`)."""
        return f"{self.public_url}/auth/smart-style.json"
