"""Ways to send a person a short text: by SMTP; into a file, for tests; onto the console, for a demo.

Each has `kinds` and `send`, as `gateway.smart.server.people.verification.Notifier` says, and raises `gateway.errors.NotSent`.
"""

from __future__ import annotations

from gateway.adapters.notify.local import Console, File
from gateway.adapters.notify.smtp import MailServer, Smtp

__all__ = ["Console", "File", "MailServer", "Smtp"]
