//! Keyword rules: what to look for in logs, and the list that needs no configuration.

use serde::{Deserialize, Serialize};

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
