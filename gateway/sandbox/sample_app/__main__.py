"""`python -m gateway.sandbox.sample_app`."""

from __future__ import annotations

from gateway.sandbox.sample_app import main

main()
