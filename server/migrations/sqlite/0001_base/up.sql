-- The whole schema of the first release; docs/block-format.md says what the blobs hold.

CREATE TABLE site_value (
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE token (
    id TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    uses_left INTEGER NOT NULL,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX token_by_secret ON token (secret_sha256);

CREATE TABLE host (
    id BLOB NOT NULL,
    name TEXT NOT NULL,
    component TEXT NOT NULL,
    enrolled_ms BIGINT NOT NULL,
    agent_version TEXT NOT NULL,
    key_sha256 BLOB NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE host_state (
    host BLOB NOT NULL,
    seen_ms BIGINT NOT NULL,
    skew_ms BIGINT NOT NULL,
    last_at_ms BIGINT NOT NULL,
    last_values BLOB NOT NULL,
    PRIMARY KEY (host)
);

CREATE TABLE receipt (
    host BLOB NOT NULL,
    epoch BIGINT NOT NULL,
    version BIGINT NOT NULL,
    ranges BLOB NOT NULL,
    PRIMARY KEY (host, epoch)
) WITHOUT ROWID;

CREATE TABLE block (
    tier SMALLINT NOT NULL,
    start_ms BIGINT NOT NULL,
    host BLOB NOT NULL,
    part BIGINT NOT NULL,
    end_ms BIGINT NOT NULL,
    stored_ms BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    skewed BOOLEAN NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (tier, start_ms, host, part)
);

CREATE INDEX block_by_host ON block (host, tier, start_ms, end_ms);

CREATE TABLE layout (
    id BIGINT NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE entity (
    host BLOB NOT NULL,
    id BIGINT NOT NULL,
    first_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (host, id)
);

CREATE TABLE series_group (
    host BLOB NOT NULL,
    entity BIGINT NOT NULL,
    layout BIGINT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    PRIMARY KEY (host, entity, layout)
) WITHOUT ROWID;

CREATE TABLE keyword_hit (
    last_ms BIGINT NOT NULL,
    host BLOB NOT NULL,
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    ordinal INTEGER NOT NULL,
    entity BIGINT NOT NULL,
    rule TEXT NOT NULL,
    severity SMALLINT NOT NULL,
    hits BIGINT NOT NULL,
    first_ms BIGINT NOT NULL,
    samples TEXT NOT NULL,
    PRIMARY KEY (last_ms, host, epoch, seq, ordinal)
);

CREATE INDEX keyword_hit_by_host ON keyword_hit (host, last_ms);

CREATE TABLE engine_event (
    at_ms BIGINT NOT NULL,
    host BLOB NOT NULL,
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    ordinal INTEGER NOT NULL,
    entity BIGINT NOT NULL,
    kind TEXT NOT NULL,
    code INTEGER NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (at_ms, host, epoch, seq, ordinal)
);

CREATE INDEX engine_event_by_host ON engine_event (host, at_ms);

CREATE TABLE forecast (
    host BLOB NOT NULL,
    at_ms BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (host)
);

CREATE TABLE incident (
    id TEXT NOT NULL,
    open_key TEXT NOT NULL,
    rule TEXT NOT NULL,
    host BLOB NOT NULL,
    entity BIGINT NOT NULL,
    instance TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    severity SMALLINT NOT NULL,
    opened_ms BIGINT NOT NULL,
    fired_ms BIGINT,
    resolved_ms BIGINT,
    updated_ms BIGINT NOT NULL,
    evidence TEXT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX incident_by_open_key ON incident (open_key);

CREATE INDEX incident_by_time ON incident (opened_ms, id);

CREATE INDEX incident_by_host ON incident (host, opened_ms);

CREATE INDEX incident_by_state ON incident (state, opened_ms);

CREATE TABLE delivery (
    id TEXT NOT NULL,
    incident TEXT NOT NULL,
    channel TEXT NOT NULL,
    transition TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_ms BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    done_ms BIGINT,
    answer TEXT NOT NULL,
    lease_ms BIGINT NOT NULL,
    lease_owner TEXT NOT NULL,
    fence BIGINT NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX delivery_by_due ON delivery (state, due_ms);

CREATE INDEX delivery_by_incident ON delivery (incident);

CREATE INDEX delivery_by_channel ON delivery (channel, created_ms);

CREATE TABLE channel (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    language TEXT NOT NULL,
    severity_min SMALLINT NOT NULL,
    send BOOLEAN NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE rule (
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE person (
    name TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE session (
    secret_sha256 BLOB NOT NULL,
    person TEXT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (secret_sha256)
) WITHOUT ROWID;

CREATE INDEX session_by_end ON session (expires_ms);

CREATE TABLE audit (
    at_ms BIGINT NOT NULL,
    nonce BIGINT NOT NULL,
    person TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (at_ms, nonce)
);
