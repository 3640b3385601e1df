"""People who sign in: accounts and passwords, second factors, passkeys, codes by mail, outside providers, and their sessions."""
