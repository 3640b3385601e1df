"""The gateway as the SMART client of an EHR: discovery, client assertions, and tokens that are renewed in time and once."""
