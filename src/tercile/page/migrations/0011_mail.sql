-- Who gets a digest. An address enters only when its owner has confirmed it.
CREATE TABLE subscribers (
    id INTEGER PRIMARY KEY,
    address TEXT NOT NULL,
    address_key TEXT NOT NULL UNIQUE,  -- in lower case
    rooms TEXT NOT NULL,               -- JSON list; empty for all
    hour INTEGER NOT NULL CHECK (hour BETWEEN 0 AND 23),
    zone TEXT NOT NULL,                -- of the IANA time zone database
    session INTEGER REFERENCES sessions (id) ON DELETE SET NULL,  -- whose tags rank what is new
    state TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'left')),
    since INTEGER NOT NULL,            -- papers with a larger id are new to this reader
    changed REAL NOT NULL
) STRICT;

CREATE INDEX subscribers_by_time ON subscribers (zone, hour) WHERE state = 'active';

-- Every letter: one row, from plan to outcome. See docs/decisions/0024.
CREATE TABLE letters (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('digest', 'confirm')),
    subscriber INTEGER REFERENCES subscribers (id) ON DELETE CASCADE,
    day TEXT NOT NULL,                 -- local date of the reader, or UTC date of a request to confirm
    address TEXT NOT NULL DEFAULT '',  -- of a request to confirm
    wanted TEXT NOT NULL DEFAULT '',   -- JSON: the choices that a confirmation puts in force
    state TEXT NOT NULL CHECK (
        state IN ('due', 'claimed', 'handed', 'sent', 'empty', 'refused', 'lapsed', 'unconfirmed')
    ),
    planned REAL NOT NULL,
    upto INTEGER NOT NULL DEFAULT 0,   -- the newest paper when it was planned
    not_before REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    worker TEXT NOT NULL DEFAULT '',
    boot TEXT NOT NULL DEFAULT '',     -- of the machine, when it was claimed
    lease REAL NOT NULL DEFAULT 0,
    token_hash BLOB UNIQUE,            -- of the link inside
    finished REAL,
    reply TEXT NOT NULL DEFAULT '',    -- the mail server's last word
    papers TEXT NOT NULL DEFAULT ''    -- JSON: what the digest listed
) STRICT;

CREATE UNIQUE INDEX one_digest_a_day ON letters (subscriber, day) WHERE kind = 'digest';
CREATE INDEX letters_waiting ON letters (kind, not_before) WHERE state = 'due';
CREATE INDEX letters_under_way ON letters (state, lease) WHERE state IN ('claimed', 'handed');
CREATE INDEX letters_to_confirm ON letters (address, planned) WHERE kind = 'confirm';

-- Mail that came back.
CREATE TABLE bounces (
    letter INTEGER PRIMARY KEY REFERENCES letters (id) ON DELETE CASCADE,
    hard INTEGER NOT NULL,
    status TEXT NOT NULL,              -- such as 5.1.1
    at REAL NOT NULL
) STRICT;
