//! The console's routes for trained models: train, list, adopt, return to the default.

use std::sync::Arc;

use forewarn_common::id::random_u64;
use http::{Method, StatusCode};
use warp::reply::Response;

use super::reply::{Refused, json};
use super::route::Access::User;
use super::route::{Call, Route};
use super::{App, view};
use crate::adopted;
use crate::model::rule::{Condition, Rule};
use crate::model::trained::{Adoption, Selection, StoredModel};
use crate::training::{TrainingError, TrainingView, Wish};

const OK: StatusCode = StatusCode::OK;
const DAY_MS: i64 = 86_400_000;
/// History that a training takes unless told otherwise, and at most.
const TRAIN_DAYS: i64 = 30;
/// See [`TRAIN_DAYS`].
const TRAIN_DAYS_MAX: i64 = 366;
/// Characters of a name that people give.
const NAME_CHARS_MAX: usize = 80;
/// Bytes of a text in a selection.
const SELECTION_BYTES_MAX: usize = 1024;

pub(super) fn routes() -> Vec<Route> {
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    vec![
        Route::new(get.clone(), "/api/v1/models", User, "Trained models, newest first", models)
            .gives::<Vec<view::Model>>(OK),
        Route::new(get.clone(), "/api/v1/models/{id}", User, "A trained model with its settings", model)
            .gives::<view::ModelDetail>(OK),
        Route::new(delete.clone(), "/api/v1/models/{id}", User, "Remove a model that nothing uses", remove_model)
            .gives::<view::Model>(OK),
        Route::new(post.clone(), "/api/v1/models/{id}/adopt", User, "Judge series of its rule by a model", adopt)
            .takes::<Selection>()
            .gives::<Adoption>(StatusCode::CREATED),
        Route::new(get.clone(), "/api/v1/adoptions", User, "Which series are judged by which model", adoptions)
            .gives::<Vec<Adoption>>(OK),
        Route::new(delete.clone(), "/api/v1/adoptions/{id}", User, "Return its series to the default", end_adoption)
            .gives::<Adoption>(OK),
        Route::new(post, "/api/v1/trainings", User, "Train a model on the history of a rule's series", train)
            .takes::<view::NewTraining>()
            .gives::<TrainingView>(StatusCode::ACCEPTED),
        Route::new(get.clone(), "/api/v1/trainings", User, "Trainings of this server, newest first", trainings)
            .gives::<Vec<TrainingView>>(OK),
        Route::new(get, "/api/v1/trainings/{id}", User, "A training and its progress", training)
            .gives::<TrainingView>(OK),
        Route::new(delete, "/api/v1/trainings/{id}", User, "Cancel a training", cancel).gives::<TrainingView>(OK),
    ]
}

fn model_view(stored: &StoredModel, adoptions: &[Adoption]) -> view::Model {
    let opened = adopted::open(stored);
    let adoptions = adoptions.iter().filter(|adoption| adoption.model == stored.id).cloned().collect();
    view::Model {
        id: stored.id.clone(),
        name: stored.name.clone(),
        rule: stored.rule.clone(),
        created_ms: stored.created_ms,
        adoptions,
        unusable: opened.as_ref().err().map(ToString::to_string),
        report: opened.ok().map(|trained| trained.report),
    }
}

async fn models(app: Arc<App>, _: Call) -> Result<Response, Refused> {
    let adoptions = app.store.adoptions().await?;
    let models: Vec<_> = app.store.models().await?.iter().map(|stored| model_view(stored, &adoptions)).collect();
    Ok(json(OK, &models))
}

async fn find(app: &App, id: &str) -> Result<StoredModel, Refused> {
    app.store.model(id).await?.ok_or_else(|| Refused::not_found("model"))
}

async fn model(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let stored = find(&app, call.param(0)).await?;
    let summary = model_view(&stored, &app.store.adoptions().await?);
    Ok(json(OK, &view::ModelDetail { summary, trained: adopted::open(&stored).ok() }))
}

async fn remove_model(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let stored = find(&app, call.param(0)).await?;
    if !app.store.model_delete(&stored.id).await? {
        let detail = "the model is in use; return its series to the default first";
        return Err(Refused::new(StatusCode::CONFLICT, "in_use", detail));
    }
    app.store.audit(call.now_ms, &call.user, "remove model", &format!("{} {}", stored.id, stored.name)).await?;
    Ok(json(OK, &model_view(&stored, &[])))
}

fn check_selection(selection: &Selection) -> Result<(), Refused> {
    let texts = [&selection.component, &selection.instance];
    if texts.iter().copied().flatten().any(|text| text.len() > SELECTION_BYTES_MAX) {
        return Err(Refused::bad_request(format!("component and instance have at most {SELECTION_BYTES_MAX} bytes")));
    }
    Ok(())
}

async fn adopt(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let selection: Selection = call.json()?;
    check_selection(&selection)?;
    let stored = find(&app, call.param(0)).await?;
    if let Err(error) = adopted::open(&stored) {
        return Err(Refused::new(StatusCode::CONFLICT, "unusable", error.to_string()));
    }
    let id = random_u64().map_err(|_| Refused::busy(1, "the system gives no random numbers; try again"))?;
    let adoption = Adoption {
        id: format!("{id:016x}"),
        model: stored.id.clone(),
        rule: stored.rule.clone(),
        selection,
        adopted_ms: call.now_ms,
    };
    if !app.store.adopt(&adoption).await? {
        return Err(Refused::not_found("model"));
    }
    let detail = format!("{} {} for rule {}", stored.id, stored.name, stored.rule);
    app.store.audit(call.now_ms, &call.user, "adopt model", &detail).await?;
    Ok(json(StatusCode::CREATED, &adoption))
}

async fn adoptions(app: Arc<App>, _: Call) -> Result<Response, Refused> {
    Ok(json(OK, &app.store.adoptions().await?))
}

async fn end_adoption(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let adoptions = app.store.adoptions().await?;
    let adoption = adoptions.into_iter().find(|adoption| adoption.id == call.param(0));
    let adoption = adoption.ok_or_else(|| Refused::not_found("adoption"))?;
    if !app.store.adoption_end(&adoption.id).await? {
        return Err(Refused::not_found("adoption"));
    }
    let detail = format!("{} for rule {}", adoption.model, adoption.rule);
    app.store.audit(call.now_ms, &call.user, "return to default", &detail).await?;
    Ok(json(OK, &adoption))
}

async fn find_rule(app: &App, id: &str) -> Result<Rule, Refused> {
    app.store.rules().await?.into_iter().find(|rule| rule.id == id).ok_or_else(|| Refused::not_found("rule"))
}

async fn train(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let new: view::NewTraining = call.json()?;
    check_selection(&new.selection)?;
    let days = new.days.unwrap_or(TRAIN_DAYS);
    if !(1..=TRAIN_DAYS_MAX).contains(&days) {
        return Err(Refused::bad_request(format!("days must be 1 to {TRAIN_DAYS_MAX}")));
    }
    let mut rule = find_rule(&app, &new.rule).await?;
    if let (Condition::Threshold { threshold, .. }, Some(wanted)) = (&mut rule.condition, new.threshold) {
        if !wanted.is_finite() {
            return Err(Refused::bad_request("threshold must be a number"));
        }
        *threshold = wanted;
    }
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Refused::bad_request(format!("name must have 1 to {NAME_CHARS_MAX} printable characters")));
    }
    let wish = Wish {
        name: name.to_owned(),
        rule,
        selection: new.selection,
        from_ms: call.now_ms - days * DAY_MS,
        to_ms: call.now_ms,
    };
    let started = app.trainings.start(wish, call.now_ms).map_err(|error| match error {
        TrainingError::Busy => Refused::busy(30, error.to_string()),
        TrainingError::NoThreshold => Refused::bad_request(error.to_string()),
        TrainingError::Random(_) => Refused::busy(1, error.to_string()),
    })?;
    app.store.audit(call.now_ms, &call.user, "train model", &format!("{} for rule {}", name, new.rule)).await?;
    Ok(json(StatusCode::ACCEPTED, &started))
}

async fn trainings(app: Arc<App>, _: Call) -> Result<Response, Refused> {
    Ok(json(OK, &app.trainings.all()))
}

async fn training(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    Ok(json(OK, &app.trainings.get(call.param(0)).ok_or_else(|| Refused::not_found("training"))?))
}

async fn cancel(app: Arc<App>, call: Call) -> Result<Response, Refused> {
    let job = app.trainings.cancel(call.param(0)).ok_or_else(|| Refused::not_found("training"))?;
    app.store.audit(call.now_ms, &call.user, "cancel training", &format!("{} {}", job.id, job.name)).await?;
    Ok(json(OK, &job))
}
