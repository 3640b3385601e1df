"""Registered clients: by the operator, or by themselves where that is allowed; their keys, and how they prove who they are (`authentication`)."""
