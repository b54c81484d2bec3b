"""Every setting of the product as frozen values, and the reading of them.

Precedence: defaults < TOML file < environment < flags. `load` never stops at the first mistake:
it gathers all of them, each with file and line where there is one, and an unknown key names the
nearest known key. Nothing here starts, opens or binds anything.
"""

from tei_manager.settings.external import AllowList, split_address
from tei_manager.settings.instance import MANAGED_FLAGS, InstanceSpec
from tei_manager.settings.reloading import reloaded
from tei_manager.settings.schema import json_schema
from tei_manager.settings.sections import ENVIRONMENT, Settings, is_loopback
from tei_manager.settings.sources import Origins, load

__all__ = [
    "ENVIRONMENT",
    "MANAGED_FLAGS",
    "AllowList",
    "InstanceSpec",
    "Origins",
    "Settings",
    "is_loopback",
    "json_schema",
    "load",
    "reloaded",
    "split_address",
]
