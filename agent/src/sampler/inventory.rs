//! What does not change while the host runs: system, kernel, processor, name, boot id.

use std::path::Path;

use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// Static facts, shown with the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HostFacts {
    /// Attributes of the host entity, ascending by key.
    pub(crate) attributes: Vec<(String, String)>,
}

impl HostFacts {
    /// Reads them for the host whose root is at `root`.
    #[must_use]
    pub(crate) fn read(root: &Path) -> Self {
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
        let mut attributes = vec![("agent".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                attributes.push((key.to_owned(), value));
            }
        };
        add("arch", Some(std::env::consts::ARCH.to_owned()));
        add("cpu", system.ok().and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned())));
        add("kernel", System::kernel_version().ok());
        add("os", os_name(root));
        Self { attributes }
    }
}

/// `PRETTY_NAME` of the host's own `os-release`; sysinfo would read the container's.
fn os_name(root: &Path) -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let text = read("etc/os-release").or_else(|| read("usr/lib/os-release"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// What the host calls itself: its `/etc/hostname` where the root is mounted, else the kernel's answer.
#[must_use]
pub(crate) fn hostname(root: &Path) -> String {
    let own = if root == Path::new("/") { None } else { std::fs::read_to_string(root.join("etc/hostname")).ok() };
    own.map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .or_else(|| System::host_name().ok())
        .unwrap_or_else(|| "host".to_owned())
}

/// The kernel's boot id; zeros where it cannot be read.
#[must_use]
pub(crate) fn boot_id(root: &Path) -> [u8; 16] {
    let text = std::fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}
