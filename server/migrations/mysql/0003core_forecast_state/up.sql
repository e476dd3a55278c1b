-- What of a host's forecasts cannot be learnt again from its history: one row a host, replaced as a whole.
CREATE TABLE IF NOT EXISTS `forecast_state` (
    `host` VARBINARY(16) NOT NULL,
    `at_ms` BIGINT NOT NULL,
    `body` LONGTEXT NOT NULL,
    PRIMARY KEY (`host`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
