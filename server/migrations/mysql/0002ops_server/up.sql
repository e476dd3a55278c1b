-- The servers that work on this database. Each counts its beat up; who has not for a while is gone. No clock is
-- compared with another's.
CREATE TABLE IF NOT EXISTS `server` (
    `id` VARCHAR(64) NOT NULL,
    `started_ms` BIGINT NOT NULL,
    `beat` BIGINT NOT NULL,
    `address` VARCHAR(128) NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
