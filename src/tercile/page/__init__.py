"""The living page: find a method, see what it claims and what was measured."""

from tercile.page.app import Page, create_app, page_of
from tercile.page.database import Database, backup, restore
from tercile.page.methods import Methods, Shelf
from tercile.page.settings import Settings, load_settings

__all__ = [
    "Database",
    "Methods",
    "Page",
    "Settings",
    "Shelf",
    "backup",
    "create_app",
    "load_settings",
    "page_of",
    "restore",
]
