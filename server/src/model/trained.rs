//! Trained settings of the forecast as they are kept, and where they are used instead of the
//! default. What is in a model is the forecast room's business: here it is text.

use forewarn_common::id::{EntityId, HostId};
use serde::{Deserialize, Serialize};

use super::series::SeriesKey;

/// A trained model as it is kept. It never changes: training again makes another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// Hex of 8 random bytes.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The rule whose metric, threshold and horizon it was trained for.
    pub rule: String,
    /// When it was trained.
    pub created_ms: i64,
    /// The model, as the forecast room writes it.
    pub body: String,
}

/// Which series of a rule are meant; what is left out is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Of hosts with this component label.
    pub component: Option<String>,
    /// Of this host.
    pub host: Option<HostId>,
    /// Of this entity.
    pub entity: Option<EntityId>,
    /// Of this mount point and the like.
    pub instance: Option<String>,
}

impl Selection {
    /// Whether a series of a host with this component label is meant.
    #[must_use]
    pub fn has(&self, key: &SeriesKey, component: &str) -> bool {
        self.component.as_deref().is_none_or(|wanted| wanted == component)
            && self.host.is_none_or(|wanted| wanted == key.host)
            && self.entity.is_none_or(|wanted| wanted == key.entity)
            && self.instance.as_deref().is_none_or(|wanted| wanted == key.instance)
    }

    /// The more a selection asks for, the more it counts: series before entity before host before component.
    #[must_use]
    pub fn closeness(&self) -> u8 {
        u8::from(self.component.is_some())
            | u8::from(self.host.is_some()) << 1
            | u8::from(self.instance.is_some()) << 2
            | u8::from(self.entity.is_some()) << 3
    }
}

/// "These series of this rule are judged by this model."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Adoption {
    /// Hex of 8 random bytes.
    pub id: String,
    /// The model's id.
    pub model: String,
    /// The rule's id.
    pub rule: String,
    /// Which of the rule's series; all of them if it asks for nothing.
    pub selection: Selection,
    /// Since when.
    pub adopted_ms: i64,
}

/// The adoption that holds for a series: the closest selection, of equal ones the newest. None is the default.
#[must_use]
pub fn adoption_of<'a>(
    adoptions: &'a [Adoption],
    rule: &str,
    key: &SeriesKey,
    component: &str,
) -> Option<&'a Adoption> {
    adoptions
        .iter()
        .filter(|adoption| adoption.rule == rule && adoption.selection.has(key, component))
        .max_by_key(|adoption| (adoption.selection.closeness(), adoption.adopted_ms, adoption.id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closest_adoption_wins_then_the_newest() {
        let key = SeriesKey {
            host: HostId([1; 16]),
            entity: EntityId(7),
            metric: "fs_used_ratio".into(),
            instance: "/data".into(),
        };
        let adoption = |id: &str, adopted_ms, selection| Adoption {
            id: id.into(),
            model: format!("model of {id}"),
            rule: "disk".into(),
            selection,
            adopted_ms,
        };
        let all = Selection::default();
        let host = Selection { host: Some(key.host), ..Selection::default() };
        let series = Selection { instance: Some("/data".into()), ..host.clone() };
        let label = Selection { component: Some("db".into()), ..Selection::default() };
        let adoptions = [
            adoption("all", 9, all.clone()),
            adoption("newer", 10, all),
            adoption("label", 11, label),
            adoption("host", 1, host),
        ];
        let chosen = |adoptions: &[Adoption], rule: &str, component: &str| {
            adoption_of(adoptions, rule, &key, component).map(|found| found.id.clone())
        };
        assert_eq!(chosen(&adoptions, "disk", "").as_deref(), Some("host"));
        assert_eq!(chosen(&adoptions[..3], "disk", "db").as_deref(), Some("label"));
        assert_eq!(chosen(&adoptions[..3], "disk", "").as_deref(), Some("newer"));
        assert_eq!(chosen(&adoptions, "memory", ""), None);
        let own = [adoptions[3].clone(), adoption("series", 0, series)];
        assert_eq!(chosen(&own, "disk", "").as_deref(), Some("series"));
    }
}
