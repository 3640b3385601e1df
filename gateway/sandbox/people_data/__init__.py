"""The people of the sandbox, one module for each household or clinic, and the small builder they are written with. All are made up by us."""
