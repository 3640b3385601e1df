"""Settings: declared once (`settings`), read once, at start (`read`), and passed down by `compose` as plain arguments.

Nothing else reads the environment. A wrong setting raises ConfigError that names the line or the variable and says what to write instead.
"""

from __future__ import annotations

from gateway.config.parse import Network
from gateway.config.read import Listed, Loaded, load
from gateway.config.settings import EhrSettings, Settings, SignInSettings, is_loopback

__all__ = ["EhrSettings", "Listed", "Loaded", "Network", "Settings", "SignInSettings", "is_loopback", "load"]
