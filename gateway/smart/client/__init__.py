"""The gateway as a SMART client of secured EHRs: discovery, private_key_jwt or PKCE, refresh. Upstream SMART follows."""
