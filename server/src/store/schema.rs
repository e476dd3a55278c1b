//! The tables, as diesel sees them. The same names, columns and meanings in both migration trees.
//!
//! Ids of 64 bits are kept as the signed number of the same bits. Times are unix milliseconds.

diesel::table! {
    site_value (name) {
        name -> Text,
        value -> Binary,
    }
}

diesel::table! {
    token (id) {
        id -> Text,
        secret_sha256 -> Binary,
        created_ms -> BigInt,
        expires_ms -> BigInt,
        uses_left -> Integer,
    }
}

diesel::table! {
    host (id) {
        id -> Binary,
        name -> Text,
        component -> Text,
        enrolled_ms -> BigInt,
        agent_version -> Text,
        key_sha256 -> Binary,
    }
}

diesel::table! {
    host_state (host) {
        host -> Binary,
        seen_ms -> BigInt,
        skew_ms -> BigInt,
        last_at_ms -> BigInt,
        last_values -> Binary,
    }
}

diesel::table! {
    receipt (host, epoch) {
        host -> Binary,
        epoch -> BigInt,
        version -> BigInt,
        ranges -> Binary,
    }
}

diesel::table! {
    block (tier, start_ms, host, part) {
        tier -> SmallInt,
        start_ms -> BigInt,
        host -> Binary,
        part -> BigInt,
        end_ms -> BigInt,
        stored_ms -> BigInt,
        samples -> BigInt,
        skewed -> Bool,
        bytes -> Binary,
    }
}

diesel::table! {
    layout (id) {
        id -> BigInt,
        bytes -> Binary,
    }
}

diesel::table! {
    entity (host, id) {
        host -> Binary,
        id -> BigInt,
        first_ms -> BigInt,
        updated_ms -> BigInt,
        record -> Binary,
    }
}

diesel::table! {
    series_group (host, entity, layout) {
        host -> Binary,
        entity -> BigInt,
        layout -> BigInt,
        first_ms -> BigInt,
        last_ms -> BigInt,
    }
}

diesel::table! {
    keyword_hit (last_ms, host, epoch, seq, ordinal) {
        last_ms -> BigInt,
        host -> Binary,
        epoch -> BigInt,
        seq -> BigInt,
        ordinal -> Integer,
        entity -> BigInt,
        rule -> Text,
        severity -> SmallInt,
        hits -> BigInt,
        first_ms -> BigInt,
        samples -> Text,
    }
}

diesel::table! {
    engine_event (at_ms, host, epoch, seq, ordinal) {
        at_ms -> BigInt,
        host -> Binary,
        epoch -> BigInt,
        seq -> BigInt,
        ordinal -> Integer,
        entity -> BigInt,
        kind -> Text,
        code -> Integer,
        detail -> Text,
    }
}

diesel::table! {
    forecast (host) {
        host -> Binary,
        at_ms -> BigInt,
        body -> Text,
    }
}

diesel::table! {
    forecast_state (host) {
        host -> Binary,
        at_ms -> BigInt,
        body -> Text,
    }
}

diesel::table! {
    incident (id) {
        id -> Text,
        open_key -> Text,
        rule -> Text,
        host -> Binary,
        entity -> BigInt,
        instance -> Text,
        kind -> Text,
        state -> Text,
        severity -> SmallInt,
        opened_ms -> BigInt,
        fired_ms -> Nullable<BigInt>,
        resolved_ms -> Nullable<BigInt>,
        updated_ms -> BigInt,
        evidence -> Text,
        revision -> BigInt,
    }
}

diesel::table! {
    delivery (id) {
        id -> Text,
        incident -> Text,
        channel -> Text,
        transition -> Text,
        state -> Text,
        attempts -> Integer,
        due_ms -> BigInt,
        created_ms -> BigInt,
        done_ms -> Nullable<BigInt>,
        answer -> Text,
        lease_ms -> BigInt,
        lease_owner -> Text,
        fence -> BigInt,
    }
}

diesel::table! {
    channel (id) {
        id -> Text,
        name -> Text,
        kind -> Text,
        language -> Text,
        severity_min -> SmallInt,
        send -> Bool,
        sealed -> Binary,
    }
}

diesel::table! {
    rule (id) {
        id -> Text,
        body -> Text,
    }
}

diesel::table! {
    trained (id) {
        id -> Text,
        name -> Text,
        rule -> Text,
        created_ms -> BigInt,
        body -> Text,
    }
}

diesel::table! {
    adoption (id) {
        id -> Text,
        model -> Text,
        rule -> Text,
        selection -> Text,
        adopted_ms -> BigInt,
    }
}

diesel::table! {
    person (name) {
        name -> Text,
        password_hash -> Text,
        created_ms -> BigInt,
    }
}

diesel::table! {
    session (secret_sha256) {
        secret_sha256 -> Binary,
        person -> Text,
        expires_ms -> BigInt,
    }
}

diesel::table! {
    audit (at_ms, nonce) {
        at_ms -> BigInt,
        nonce -> BigInt,
        person -> Text,
        action -> Text,
        detail -> Text,
    }
}

diesel::table! {
    server (id) {
        id -> Text,
        started_ms -> BigInt,
        beat -> BigInt,
        address -> Text,
    }
}

diesel::allow_tables_to_appear_in_same_query!(host, host_state);
diesel::allow_tables_to_appear_in_same_query!(incident, delivery);
