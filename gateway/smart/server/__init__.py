"""The SMART App Launch 2.2 authorization server.

A token request goes: `driver` reads what the request names into a `Snapshot` -> `decide` (Authlib's core, pure) -> effects -> `driver`
commits them in one transaction, each by compare-and-set. A person's way goes through `authorize` (request -> sign-in -> patient -> consent
-> code). `discovery`, `registration`, `launches` and `grants` stand beside it.
"""
