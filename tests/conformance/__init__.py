"""The published checks of a SMART App Launch 2.2 server, ported: one suite that can be pointed at any server.

`python -m tests.conformance --help` (or scripts/conformance) says how. A check is a function in `checks/`; none knows pytest or the gateway, so
what they find is what any client would find. `ours` starts the gateway as a server under test, `mutants` makes it wrong: that is how the suite itself
is tested.
"""
