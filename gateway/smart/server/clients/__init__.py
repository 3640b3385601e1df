"""Registered clients: by the operator, or by themselves where that is allowed; and their keys."""
