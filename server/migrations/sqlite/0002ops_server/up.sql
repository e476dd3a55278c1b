-- The servers that work on this database. Each counts its beat up; who has not for a while is gone. No clock is
-- compared with another's.
CREATE TABLE IF NOT EXISTS server (
    id TEXT NOT NULL PRIMARY KEY,
    started_ms BIGINT NOT NULL,
    beat BIGINT NOT NULL,
    address TEXT NOT NULL
) WITHOUT ROWID;
