-- The whole schema of the first release; docs/block-format.md says what the blobs hold.

CREATE TABLE IF NOT EXISTS `site_value` (
    `name` VARCHAR(128) NOT NULL,
    `value` LONGBLOB NOT NULL,
    PRIMARY KEY (`name`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `token` (
    `id` VARCHAR(32) NOT NULL,
    `secret_sha256` VARBINARY(32) NOT NULL,
    `created_ms` BIGINT NOT NULL,
    `expires_ms` BIGINT NOT NULL,
    `uses_left` INTEGER NOT NULL,
    PRIMARY KEY (`id`),
    UNIQUE KEY `token_by_secret` (`secret_sha256`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `host` (
    `id` VARBINARY(16) NOT NULL,
    `name` VARCHAR(256) NOT NULL,
    `component` VARCHAR(256) NOT NULL,
    `enrolled_ms` BIGINT NOT NULL,
    `agent_version` VARCHAR(256) NOT NULL,
    `key_sha256` VARBINARY(32) NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `host_state` (
    `host` VARBINARY(16) NOT NULL,
    `seen_ms` BIGINT NOT NULL,
    `skew_ms` BIGINT NOT NULL,
    `last_at_ms` BIGINT NOT NULL,
    `last_values` MEDIUMBLOB NOT NULL,
    PRIMARY KEY (`host`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `receipt` (
    `host` VARBINARY(16) NOT NULL,
    `epoch` BIGINT NOT NULL,
    `version` BIGINT NOT NULL,
    `ranges` MEDIUMBLOB NOT NULL,
    PRIMARY KEY (`host`, `epoch`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `block` (
    `tier` SMALLINT NOT NULL,
    `start_ms` BIGINT NOT NULL,
    `host` VARBINARY(16) NOT NULL,
    `part` BIGINT NOT NULL,
    `end_ms` BIGINT NOT NULL,
    `stored_ms` BIGINT NOT NULL,
    `samples` BIGINT NOT NULL,
    `skewed` BOOLEAN NOT NULL,
    `bytes` MEDIUMBLOB NOT NULL,
    PRIMARY KEY (`tier`, `start_ms`, `host`, `part`),
    KEY `block_by_host` (`host`, `tier`, `start_ms`, `end_ms`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `layout` (
    `id` BIGINT NOT NULL,
    `bytes` MEDIUMBLOB NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `entity` (
    `host` VARBINARY(16) NOT NULL,
    `id` BIGINT NOT NULL,
    `first_ms` BIGINT NOT NULL,
    `updated_ms` BIGINT NOT NULL,
    `record` MEDIUMBLOB NOT NULL,
    PRIMARY KEY (`host`, `id`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `series_group` (
    `host` VARBINARY(16) NOT NULL,
    `entity` BIGINT NOT NULL,
    `layout` BIGINT NOT NULL,
    `first_ms` BIGINT NOT NULL,
    `last_ms` BIGINT NOT NULL,
    PRIMARY KEY (`host`, `entity`, `layout`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `keyword_hit` (
    `last_ms` BIGINT NOT NULL,
    `host` VARBINARY(16) NOT NULL,
    `epoch` BIGINT NOT NULL,
    `seq` BIGINT NOT NULL,
    `ordinal` INTEGER NOT NULL,
    `entity` BIGINT NOT NULL,
    `rule` VARCHAR(256) NOT NULL,
    `severity` SMALLINT NOT NULL,
    `hits` BIGINT NOT NULL,
    `first_ms` BIGINT NOT NULL,
    `samples` MEDIUMTEXT NOT NULL,
    PRIMARY KEY (`last_ms`, `host`, `epoch`, `seq`, `ordinal`),
    KEY `keyword_hit_by_host` (`host`, `last_ms`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `engine_event` (
    `at_ms` BIGINT NOT NULL,
    `host` VARBINARY(16) NOT NULL,
    `epoch` BIGINT NOT NULL,
    `seq` BIGINT NOT NULL,
    `ordinal` INTEGER NOT NULL,
    `entity` BIGINT NOT NULL,
    `kind` VARCHAR(16) NOT NULL,
    `code` INTEGER NOT NULL,
    `detail` MEDIUMTEXT NOT NULL,
    PRIMARY KEY (`at_ms`, `host`, `epoch`, `seq`, `ordinal`),
    KEY `engine_event_by_host` (`host`, `at_ms`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `forecast` (
    `host` VARBINARY(16) NOT NULL,
    `at_ms` BIGINT NOT NULL,
    `body` LONGTEXT NOT NULL,
    PRIMARY KEY (`host`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `incident` (
    `id` VARCHAR(32) NOT NULL,
    `open_key` VARCHAR(80) NOT NULL,
    `rule` VARCHAR(128) NOT NULL,
    `host` VARBINARY(16) NOT NULL,
    `entity` BIGINT NOT NULL,
    `instance` VARCHAR(256) NOT NULL,
    `kind` VARCHAR(16) NOT NULL,
    `state` VARCHAR(16) NOT NULL,
    `severity` SMALLINT NOT NULL,
    `opened_ms` BIGINT NOT NULL,
    `fired_ms` BIGINT,
    `resolved_ms` BIGINT,
    `updated_ms` BIGINT NOT NULL,
    `evidence` MEDIUMTEXT NOT NULL,
    `revision` BIGINT NOT NULL,
    PRIMARY KEY (`id`),
    UNIQUE KEY `incident_by_open_key` (`open_key`),
    KEY `incident_by_time` (`opened_ms`, `id`),
    KEY `incident_by_host` (`host`, `opened_ms`),
    KEY `incident_by_state` (`state`, `opened_ms`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `delivery` (
    `id` VARCHAR(128) NOT NULL,
    `incident` VARCHAR(32) NOT NULL,
    `channel` VARCHAR(32) NOT NULL,
    `transition` VARCHAR(16) NOT NULL,
    `state` VARCHAR(16) NOT NULL,
    `attempts` INTEGER NOT NULL,
    `due_ms` BIGINT NOT NULL,
    `created_ms` BIGINT NOT NULL,
    `done_ms` BIGINT,
    `answer` MEDIUMTEXT NOT NULL,
    `lease_ms` BIGINT NOT NULL,
    `lease_owner` VARCHAR(128) NOT NULL,
    `fence` BIGINT NOT NULL,
    PRIMARY KEY (`id`),
    KEY `delivery_by_due` (`state`, `due_ms`),
    KEY `delivery_by_incident` (`incident`),
    KEY `delivery_by_channel` (`channel`, `created_ms`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `channel` (
    `id` VARCHAR(32) NOT NULL,
    `name` VARCHAR(256) NOT NULL,
    `kind` VARCHAR(16) NOT NULL,
    `language` VARCHAR(16) NOT NULL,
    `severity_min` SMALLINT NOT NULL,
    `send` BOOLEAN NOT NULL,
    `sealed` MEDIUMBLOB NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `rule` (
    `id` VARCHAR(128) NOT NULL,
    `body` MEDIUMTEXT NOT NULL,
    PRIMARY KEY (`id`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `person` (
    `name` VARCHAR(128) NOT NULL,
    `password_hash` VARCHAR(512) NOT NULL,
    `created_ms` BIGINT NOT NULL,
    PRIMARY KEY (`name`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `session` (
    `secret_sha256` VARBINARY(32) NOT NULL,
    `person` VARCHAR(128) NOT NULL,
    `expires_ms` BIGINT NOT NULL,
    PRIMARY KEY (`secret_sha256`),
    KEY `session_by_end` (`expires_ms`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS `audit` (
    `at_ms` BIGINT NOT NULL,
    `nonce` BIGINT NOT NULL,
    `person` VARCHAR(128) NOT NULL,
    `action` VARCHAR(128) NOT NULL,
    `detail` MEDIUMTEXT NOT NULL,
    PRIMARY KEY (`at_ms`, `nonce`)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
