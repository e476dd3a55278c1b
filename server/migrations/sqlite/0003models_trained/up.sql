CREATE TABLE trained (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    rule TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE adoption (
    id TEXT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL,
    rule TEXT NOT NULL,
    selection TEXT NOT NULL,
    adopted_ms BIGINT NOT NULL
);
