-- How often a table was changed, so that a search index knows when it is behind.
CREATE TABLE changes (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT;

INSERT INTO changes (name, number) VALUES ('papers', 0);

CREATE TRIGGER papers_inserted AFTER INSERT ON papers BEGIN
    UPDATE changes SET number = number + 1 WHERE name = 'papers';
END;

CREATE TRIGGER papers_updated AFTER UPDATE ON papers BEGIN
    UPDATE changes SET number = number + 1 WHERE name = 'papers';
END;

CREATE TRIGGER papers_deleted AFTER DELETE ON papers BEGIN
    UPDATE changes SET number = number + 1 WHERE name = 'papers';
END;

-- Embeddings of papers that readers brought; those of the catalogue come with the package.
CREATE TABLE vectors (
    paper INTEGER PRIMARY KEY REFERENCES papers (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,              -- of the text that was embedded, and
    model TEXT NOT NULL,               -- of the weights that did it: one that differs is out of date
    vector BLOB NOT NULL               -- float32, little-endian
) STRICT;
