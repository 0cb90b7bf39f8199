-- What signs the tokens of forms and links; made at the first start.
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

-- A reader's browser, known by a cookie of which only the hash is kept.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    token_hash BLOB NOT NULL UNIQUE,
    created TEXT NOT NULL,
    seen TEXT NOT NULL
) STRICT;

-- Papers that readers brought, beside the catalogue.
CREATE TABLE papers (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,          -- in addresses: /papers/<key>
    title TEXT NOT NULL,
    abstract TEXT NOT NULL DEFAULT '',
    authors TEXT NOT NULL DEFAULT '',
    year INTEGER,
    venue TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',   -- such as arXiv:2006.10518 or a DOI
    url TEXT NOT NULL DEFAULT '',
    room TEXT NOT NULL DEFAULT '',     -- a room of the catalogue, or empty
    added TEXT NOT NULL,               -- UTC, ISO 8601
    changed TEXT NOT NULL
) STRICT;

CREATE INDEX papers_by_change ON papers (changed);
