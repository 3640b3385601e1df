"""A person's way through an authorization: `driver` reads what a request names, `decide` judges it, purely, and `driver` commits the end."""
