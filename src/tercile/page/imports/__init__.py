"""Papers from elsewhere: read, previewed, stored once, and fetched on a schedule."""

from tercile.page.imports.atom import Feed, read_atom
from tercile.page.imports.draft import Draft, draft
from tercile.page.imports.fetching import Fetched, fetch
from tercile.page.imports.importer import Importer
from tercile.page.imports.reading import Read, read_papers
from tercile.page.imports.storing import Judged, Stored
from tercile.page.imports.titles import Known, Titles

__all__ = [
    "Draft",
    "Feed",
    "Fetched",
    "Importer",
    "Judged",
    "Known",
    "Read",
    "Stored",
    "Titles",
    "draft",
    "fetch",
    "read_atom",
    "read_papers",
]
