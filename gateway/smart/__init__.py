"""SMART App Launch and what follows from it: scopes and rules (pure), the gateway as the authorization server of apps, and as the client of EHRs."""
