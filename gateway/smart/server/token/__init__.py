"""Tokens: `driver` reads what a request names into a `Snapshot`, `decide` judges it, purely, and `driver` commits the effects by compare-and-set."""
