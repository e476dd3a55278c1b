-- What of a host's forecasts cannot be learnt again from its history: one row a host, replaced as a whole.
CREATE TABLE forecast_state (
    host BLOB NOT NULL,
    at_ms BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (host)
);
