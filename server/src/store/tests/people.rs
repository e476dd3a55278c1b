//! Hosts, tokens, settings, users: what people set up stays as they set it up.

use forewarn_common::keyword::Severity;

use super::*;
use crate::model::channel::{ChannelKind, Language};
use crate::model::host::{Host, Token};
use crate::model::rule::{Rule, default_rules};
use crate::model::trained::{Adoption, Selection, StoredModel};
use crate::model::user::{Session, User};

on_both_engines!(
    a_token_lets_in_as_many_hosts_as_it_says,
    a_single_use_token_is_used_once_however_many_try,
    a_host_that_enrols_again_has_its_new_key,
    the_first_site_value_wins_on_every_server,
    channels_rules_and_users_come_back_as_they_were,
    sessions_end,
    a_model_that_is_used_stays_and_the_default_comes_back,
);

fn token(uses_left: i32) -> Token {
    Token {
        id: format!("{uses_left:016x}"),
        secret_sha256: [uses_left as u8; 32],
        created_ms: T0,
        expires_ms: T0 + HOUR_MS,
        uses_left,
    }
}

async fn a_token_lets_in_as_many_hosts_as_it_says(place: Place) {
    let store = place.open().await;
    store.token_create(&token(2)).await.unwrap();
    assert!(matches!(store.token_create(&token(2)).await, Err(StoreError::Conflict)));
    let redeem = |now_ms| store.token_redeem([2; 32], now_ms);
    assert_eq!(redeem(T0 + HOUR_MS).await.unwrap(), None, "it has ended");
    assert_eq!(store.token_redeem([9; 32], T0).await.unwrap(), None, "there is none");
    assert_eq!(redeem(T0).await.unwrap(), Some(()));
    assert_eq!(redeem(T0).await.unwrap(), Some(()));
    assert_eq!(redeem(T0).await.unwrap(), None, "it is used up");
}

async fn a_single_use_token_is_used_once_however_many_try(place: Place) {
    let mut tasks = tokio::task::JoinSet::new();
    place.open().await.token_create(&token(1)).await.unwrap();
    for _ in 0..8 {
        let store = place.open().await;
        tasks.spawn(async move { store.token_redeem([1; 32], T0).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await.into_iter().flatten().count(), 1);
}

async fn a_host_that_enrols_again_has_its_new_key(place: Place) {
    let store = place.open().await;
    let host = |number: u8, name: &str| Host {
        id: Agent::new(number).host,
        name: name.into(),
        component: "订单".into(),
        enrolled_ms: T0,
        seen_ms: 0,
        skew_ms: 0,
        agent_version: "0.1.0".into(),
    };
    store.host_enroll(&host(1, "b"), [1; 32]).await.unwrap();
    store.host_enroll(&host(2, "a"), [2; 32]).await.unwrap();
    store.host_enroll(&Host { enrolled_ms: T0 + 5, ..host(1, "b-neu") }, [3; 32]).await.unwrap();
    assert_eq!(store.agent_key(Agent::new(1).host).await.unwrap(), Some([3; 32]));
    assert_eq!(store.agent_key(Agent::new(7).host).await.unwrap(), None);
    let mut keys = store.agent_keys().await.unwrap();
    keys.sort();
    assert_eq!(keys, [(Agent::new(1).host, [3; 32]), (Agent::new(2).host, [2; 32])]);
    let mut arriving = Agent::new(2).arriving(0, 3);
    arriving.skew_ms = -1234;
    store.push(vec![arriving.clone()]).await.unwrap();
    let seen = Host { seen_ms: arriving.received_ms, skew_ms: -1234, ..host(2, "a") };
    assert_eq!(store.hosts().await.unwrap(), vec![seen.clone(), host(1, "b-neu")]);
    assert_eq!(store.host(seen.id).await.unwrap(), Some(seen));
}

async fn the_first_site_value_wins_on_every_server(place: Place) {
    let mut tasks = tokio::task::JoinSet::new();
    for server in 0..6_u8 {
        let store = place.open().await;
        tasks.spawn(async move { store.site_put_if_absent("ca", vec![server, 0, 255]).await.unwrap() });
    }
    let mut all = tasks.join_all().await;
    all.dedup();
    let store = place.open().await;
    assert_eq!(store.site_get("ca").await.unwrap().as_ref(), all.first());
    assert_eq!(all.len(), 1);
    assert_eq!(store.site_get("none").await.unwrap(), None);
    store.site_put("ca", vec![]).await.unwrap();
    store.site_put("keywords", vec![0; 300_000]).await.unwrap();
    assert_eq!(store.site_get("ca").await.unwrap(), Some(vec![]));
    assert_eq!(store.site_get("keywords").await.unwrap().map(|value| value.len()), Some(300_000));
}

async fn channels_rules_and_users_come_back_as_they_were(place: Place) {
    let store = place.open().await;
    let channel = SealedChannel {
        id: "00ff".into(),
        name: "值班群 \u{1F6A8}".into(),
        kind: ChannelKind::DingTalk,
        language: Language::Chinese,
        severity_min: Severity::Warning,
        send: true,
        sealed: vec![0, 1, 2, 255],
    };
    store.channel_save(&channel).await.unwrap();
    let muted = SealedChannel { send: false, ..channel.clone() };
    store.channel_save(&muted).await.unwrap();
    assert!(store.channels().await.unwrap() == [muted]);
    assert!(store.channel_delete("00ff").await.unwrap() && !store.channel_delete("00ff").await.unwrap());

    for rule in default_rules() {
        store.rule_save(&rule).await.unwrap();
    }
    let mut silent = default_rules().remove(0);
    silent.send = false;
    store.rule_save(&silent).await.unwrap();
    let rules = store.rules().await.unwrap();
    assert_eq!(rules.len(), default_rules().len());
    assert_eq!(rules.iter().find(|rule| rule.id == silent.id), Some(&silent));
    let own = Rule { id: "site-1".into(), name: "queue".into(), ..silent };
    store.rule_save(&own).await.unwrap();
    assert!(store.rule_delete("site-1").await.unwrap() && !store.rule_delete("site-1").await.unwrap());
    assert!(!store.has_open_incidents("site-1").await.unwrap());

    let user = User { name: "admin".into(), password_hash: "$argon2id$...".into(), created_ms: T0 };
    store.user_save(&user).await.unwrap();
    let changed = User { password_hash: "other".into(), ..user };
    store.user_save(&changed).await.unwrap();
    assert!(store.users().await.unwrap() == [changed.clone()]);
    assert!(store.user("admin").await.unwrap() == Some(changed) && store.user("Admin").await.unwrap().is_none());

    store.audit(T0, "admin", "rule_changed", "disk").await.unwrap();
    store.audit(T0, "admin", "channel_deleted", &"长".repeat(5000)).await.unwrap();
    let entries = store.audit_last(10).await.unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry.user == "admin" && entry.detail.len() <= 4096));
}

async fn sessions_end(place: Place) {
    let store = place.open().await;
    let session = |number: u8, expires_ms| Session { secret_sha256: [number; 32], user: "admin".into(), expires_ms };
    store.session_put(&session(1, T0 + 10)).await.unwrap();
    store.session_put(&session(2, T0 + 20)).await.unwrap();
    assert_eq!(store.session_get([1; 32], T0 + 9).await.unwrap(), Some(session(1, T0 + 10)));
    assert_eq!(store.session_get([1; 32], T0 + 10).await.unwrap(), None);
    store.session_put(&session(1, T0 + 15)).await.unwrap();
    assert_eq!(store.session_get([1; 32], T0 + 10).await.unwrap(), Some(session(1, T0 + 15)));
    assert_eq!(store.sessions_expire(T0 + 15).await.unwrap(), 1);
    store.session_delete([2; 32]).await.unwrap();
    assert_eq!(store.session_get([2; 32], T0).await.unwrap(), None);
    // Removing a user ends their sessions.
    store.user_save(&User { name: "admin".into(), password_hash: "x".into(), created_ms: T0 }).await.unwrap();
    store.session_put(&session(3, T0 + 15)).await.unwrap();
    assert!(store.user_delete("admin").await.unwrap());
    assert_eq!(store.session_get([3; 32], T0).await.unwrap(), None);
}

async fn a_model_that_is_used_stays_and_the_default_comes_back(place: Place) {
    let store = place.open().await;
    let model = |id: &str, created_ms| StoredModel {
        id: id.into(),
        name: "磁盘 · plant-3".into(),
        rule: "disk".into(),
        created_ms,
        body: "{\"settings\":{}}".into(),
    };
    store.model_add(&model("a", T0)).await.unwrap();
    store.model_add(&model("b", T0 + 1)).await.unwrap();
    assert!(matches!(store.model_add(&model("a", T0)).await, Err(StoreError::Conflict)));
    assert_eq!(store.models().await.unwrap(), [model("b", T0 + 1), model("a", T0)]);
    assert_eq!(store.model("a").await.unwrap(), Some(model("a", T0)));

    let selection = Selection { host: Some(Agent::new(3).host), ..Selection::default() };
    let adoption = |id: &str, model: &str, adopted_ms| Adoption {
        id: id.into(),
        model: model.into(),
        rule: "disk".into(),
        selection: selection.clone(),
        adopted_ms,
    };
    assert!(!store.adopt(&adoption("1", "nobody", T0)).await.unwrap(), "there is no such model");
    assert!(store.adopt(&adoption("1", "a", T0)).await.unwrap());
    assert!(store.adopt(&adoption("2", "b", T0 + 1)).await.unwrap());
    assert_eq!(store.adoptions().await.unwrap(), [adoption("2", "b", T0 + 1)], "the same series have one model");
    assert!(!store.model_delete("b").await.unwrap(), "it is used");
    assert!(store.model_delete("a").await.unwrap());
    assert!(store.adoption_end("2").await.unwrap());
    assert!(!store.adoption_end("2").await.unwrap());
    assert!(store.adoptions().await.unwrap().is_empty());
    assert!(store.model_delete("b").await.unwrap());
}
