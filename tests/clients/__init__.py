"""Released clients of others, unmodified, against a gateway that runs as people run it. docs/clients.md tells what each needs to know."""
