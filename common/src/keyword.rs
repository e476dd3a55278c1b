//! Keyword rules: what to look for in logs, and the list that needs no configuration.

use serde::{Deserialize, Serialize};

use crate::limit;

/// How bad a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth counting.
    Info,
    /// Somebody should look today.
    Warning,
    /// Somebody must look now.
    Critical,
}

impl Severity {
    /// Its number on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The severity of a number on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Info, Self::Warning, Self::Critical].get(usize::from(code)).copied()
    }
}

/// Lines that contain one of the literals or match one of the regexes are hits of the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeywordRule {
    /// Names the rule in series, incidents and messages: lower case, digits, `_` and `-`.
    pub name: String,
    /// How bad a hit is.
    pub severity: Severity,
    /// Texts to find as they are.
    #[serde(default)]
    pub literals: Vec<String>,
    /// Regular expressions to find.
    #[serde(default)]
    pub regexes: Vec<String>,
    /// Whether ASCII letters match in either case.
    #[serde(default)]
    pub ignore_case: bool,
    /// Fields of lines that are JSON objects, as `level=error` or `log.level=error`: a number, a truth value or a whole
    /// text that is equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Containers whose logs the rule looks at (see [`Subject::is_selected_by`]); empty looks at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Containers whose logs it never looks at; wins over `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

impl KeywordRule {
    /// How many patterns it has.
    #[must_use]
    pub fn patterns(&self) -> usize {
        self.literals.len() + self.regexes.len() + self.fields.len()
    }

    /// What is wrong with its fields and selectors, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if let Some(bad) = self.fields.iter().find(|text| field_of(text).is_none()) {
            return Some(format!("field {bad:?} must look like level=error"));
        }
        let selectors = || self.include.iter().chain(&self.exclude);
        if selectors().count() > limit::KEYWORD_PATTERNS_MAX {
            return Some(format!("give at most {} names to include and exclude", limit::KEYWORD_PATTERNS_MAX));
        }
        selectors().find_map(|text| selector_fault(text))
    }
}

/// The path and the value of a field pattern.
#[must_use]
pub fn field_of(pattern: &str) -> Option<(&str, &str)> {
    pattern
        .split_once('=')
        .filter(|(path, value)| !value.is_empty() && path.split('.').all(|name| !name.is_empty()))
        .filter(|_| pattern.len() <= limit::NAME_BYTES_MAX)
}

/// What is wrong with a selector, if anything.
#[must_use]
pub fn selector_fault(selector: &str) -> Option<String> {
    let is_sound = !selector.is_empty()
        && selector.len() <= limit::NAME_BYTES_MAX
        && selector
            .strip_prefix("label:")
            .is_none_or(|label| label.split_once('=').is_some_and(|(key, _)| !key.is_empty()));
    (!is_sound).then(|| {
        format!("{selector:?} must be a name, image:name or label:key=value; * at either end matches anything")
    })
}

/// The container whose log it is, as selectors see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// The labels that are known of it.
    pub labels: std::collections::BTreeMap<String, String>,
}

impl Subject {
    /// Whether one selector means it: `name`, `image:name` or `label:key=value`; `*` at either end matches anything.
    #[must_use]
    pub fn is_selected_by(&self, selector: &str) -> bool {
        if let Some(image) = selector.strip_prefix("image:") {
            return matches(&self.image, image);
        }
        match selector.strip_prefix("label:").and_then(|label| label.split_once('=')) {
            Some((key, value)) => self.labels.get(key).is_some_and(|text| matches(text, value)),
            None => matches(&self.name, selector),
        }
    }

    /// Whether it is among `include` (all when that is empty) and not among `exclude`.
    #[must_use]
    pub fn is_wanted(&self, include: &[String], exclude: &[String]) -> bool {
        let any = |selectors: &[String]| selectors.iter().any(|selector| self.is_selected_by(selector));
        (include.is_empty() || any(include)) && !any(exclude)
    }
}

/// Whether `text` is what `pattern` says; `*` at either end matches anything.
#[must_use]
pub fn matches(text: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => text.contains(pattern.trim_matches('*')),
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => text == pattern,
    }
}

/// The rules of a site that configured none: trouble that precedes outages, in English and Chinese.
#[must_use]
pub fn default_rules() -> Vec<KeywordRule> {
    let rule = |name: &str, severity, literals: &[&str]| KeywordRule {
        name: name.to_owned(),
        severity,
        literals: literals.iter().map(|text| (*text).to_owned()).collect(),
        regexes: Vec::new(),
        ignore_case: false,
        fields: Vec::new(),
        include: Vec::new(),
        exclude: Vec::new(),
    };
    vec![
        rule(
            "out_of_memory",
            Severity::Critical,
            &[
                "java.lang.OutOfMemoryError",
                "OutOfMemoryError",
                "Out of memory",
                "Cannot allocate memory",
                "std::bad_alloc",
                "内存不足",
                "内存溢出",
            ],
        ),
        rule(
            "disk_full",
            Severity::Critical,
            &["No space left on device", "ENOSPC", "Disk quota exceeded", "磁盘空间不足", "磁盘已满"],
        ),
        rule("file_handles", Severity::Critical, &["Too many open files", "EMFILE", "打开的文件过多"]),
        rule(
            "database_timeout",
            Severity::Critical,
            &[
                "数据库连接超时",
                "数据库连接失败",
                "连接池耗尽",
                "Connection pool exhausted",
                "Too many connections",
                "CommunicationsException",
            ],
        ),
        rule("deadlock", Severity::Warning, &["Deadlock found", "deadlock detected", "死锁"]),
        rule(
            "crash",
            Severity::Critical,
            &["Segmentation fault", "SIGSEGV", "core dumped", "panic: ", "panicked at", "fatal error", "程序崩溃"],
        ),
        rule(
            "connection",
            Severity::Warning,
            &["Connection refused", "Connection reset by peer", "No route to host", "拒绝连接", "连接被拒绝"],
        ),
        rule("timeout", Severity::Info, &["timed out", "Read timeout", "deadline exceeded", "请求超时", "连接超时"]),
        rule(
            "read_only",
            Severity::Critical,
            &["Read-only file system", "I/O error", "Input/output error", "只读文件系统"],
        ),
        rule("certificate", Severity::Warning, &["certificate has expired", "certificate verify failed", "证书已过期"]),
        rule(
            "replication",
            Severity::Warning,
            &["replication lag", "Slave SQL thread", "Replica SQL thread", "主从同步"],
        ),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_selected_by_name_image_and_label() {
        let labels = [("com.docker.compose.project".to_owned(), "shop".to_owned())];
        let subject = Subject { name: "shop-db".into(), image: "mysql:8".into(), labels: labels.into() };
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let is_wanted = |include: &[&str], exclude: &[&str]| subject.is_wanted(&owned(include), &owned(exclude));
        assert!(is_wanted(&[], &[]));
        assert!(is_wanted(&["shop-*"], &[]));
        assert!(is_wanted(&["*-db"], &["*web*"]));
        assert!(!is_wanted(&["shop"], &[]));
        assert!(!is_wanted(&["*"], &["shop-db"]));
        assert!(is_wanted(&["image:mysql*"], &[]));
        assert!(!is_wanted(&["image:mysql"], &[]));
        assert!(is_wanted(&["label:com.docker.compose.project=shop"], &[]));
        assert!(!is_wanted(&["label:absent=*"], &[]));
        assert!(!is_wanted(&[], &["label:com.docker.compose.project=*"]));
    }

    #[test]
    fn fields_and_selectors_that_mean_nothing_are_named() {
        let rule = |fields: &[&str], include: &[&str]| KeywordRule {
            fields: fields.iter().map(|text| (*text).to_owned()).collect(),
            include: include.iter().map(|text| (*text).to_owned()).collect(),
            ..default_rules().remove(0)
        };
        assert_eq!(rule(&["level=error", "log.level=50"], &["a*", "image:x", "label:k=v"]).fault(), None);
        for bad in ["level", "=x", "level=", "a..b=1"] {
            assert!(rule(&[bad], &[]).fault().unwrap().contains("must look like level=error"), "{bad}");
        }
        for bad in ["", "label:k", "label:=v"] {
            assert!(rule(&[], &[bad]).fault().unwrap().contains("label:key=value"), "{bad}");
        }
    }

    #[test]
    fn a_rule_without_the_newer_keys_is_written_as_before() {
        // An agent of an older version refuses keys that it does not know.
        let text = serde_json::to_string(&default_rules()).unwrap();
        for key in ["fields", "include", "exclude"] {
            assert!(!text.contains(key), "{key}");
        }
    }
}
