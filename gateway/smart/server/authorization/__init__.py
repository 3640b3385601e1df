"""A person's way through an authorization: `authorize` decides, purely; `authorizer` reads, drives and commits."""
