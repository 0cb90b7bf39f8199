-- What is known of an imported paper beside the paper itself, to recognise it when it comes again.
CREATE TABLE imports (
    paper INTEGER PRIMARY KEY REFERENCES papers (id) ON DELETE CASCADE,
    arxiv TEXT UNIQUE,                 -- without version
    doi TEXT UNIQUE,                   -- in lower case
    title_key BLOB NOT NULL UNIQUE,    -- digest of the title, case and white space folded
    format TEXT NOT NULL,              -- bibtex, atom, semantic-scholar or form
    room_guessed INTEGER NOT NULL,
    published TEXT NOT NULL DEFAULT ''
) STRICT;

-- MinHash signatures of titles, so that near-duplicates are found without reading every title anew.
CREATE TABLE title_signatures (
    paper INTEGER NOT NULL REFERENCES papers (id) ON DELETE CASCADE,
    way TEXT NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (paper, way)
) STRICT, WITHOUT ROWID;

-- A file that was read and waits for a reader's consent.
CREATE TABLE previews (
    token_hash BLOB PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    read TEXT NOT NULL,                -- JSON: format, papers, rejections
    made REAL NOT NULL,
    stored TEXT                        -- JSON: what came of it, once it was agreed to
) STRICT;

CREATE INDEX previews_by_session ON previews (session, made);

-- Tags that readers put on papers: the catalogue's slugs, or keys of `papers`.
CREATE TABLE tags (
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    paper TEXT NOT NULL,
    tag TEXT NOT NULL,
    made TEXT NOT NULL,
    PRIMARY KEY (session, paper, tag)
) STRICT, WITHOUT ROWID;

-- How much a paper is read: readings, each halved once in a half-life, as they stood at a moment.
CREATE TABLE readings (
    paper TEXT PRIMARY KEY,
    weight REAL NOT NULL,
    at REAL NOT NULL,                  -- Unix time
    total INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Where a feed is read from, how far, and not before when.
CREATE TABLE feeds (
    address TEXT PRIMARY KEY,
    etag TEXT NOT NULL DEFAULT '',
    last_modified TEXT NOT NULL DEFAULT '',
    resume TEXT NOT NULL DEFAULT '',   -- the page to read next, if a round was cut off
    finished REAL,                     -- end of the last whole round
    failures INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    said TEXT NOT NULL DEFAULT ''      -- outcome of the last request, for people
) STRICT, WITHOUT ROWID;

-- When a host was last asked, so that a restart is no faster than a long run; and what its robots.txt says.
CREATE TABLE hosts (
    host TEXT PRIMARY KEY,
    asked REAL NOT NULL DEFAULT 0,
    robots TEXT,
    robots_at REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
