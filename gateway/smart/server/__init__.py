"""The SMART App Launch 2.2 authorization server.

- `authorization`: a person's way from an app's request to a code (request -> sign-in -> patient -> consent), what she allowed, and EHR launches.
- `token`: from a code, a refresh token or a key to an access token, and back from a token to whom it speaks for.
- `clients`: the apps and systems that are registered, their keys, and how they prove who they are.
- `people`: the accounts that sign in, and how they show who they are.

Beside them lies what several need: how parameters are read (`requests`) and answers are made (`answers`, with what they have committed: `effects`),
the addresses (`endpoints`) and how long what is given counts (`lifetimes`), Authlib's core made pure (`core`), what an EHR says of itself
(`discovery`), the keys that sign.
"""
