//! Where the server may be made to connect to: a channel's URL is typed by a person with a login, and must not become
//! a way into the server itself or a cloud's metadata service. Checked on literal addresses before a request and on
//! every address that a name resolves to, so that a name cannot change its mind in between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::NotifyError;

/// The metadata service of a cloud that lies in shared address space, which is otherwise allowed.
const CLOUD_METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

/// Whether a channel may live at this address. Private networks may: relays stand there.
#[must_use]
pub(super) fn is_allowed(address: IpAddr, allow_loopback: bool) -> bool {
    match address {
        IpAddr::V4(v4) => is_v4_allowed(v4, allow_loopback),
        IpAddr::V6(v6) => is_v6_allowed(v6, allow_loopback),
    }
}

fn is_v4_allowed(address: Ipv4Addr, allow_loopback: bool) -> bool {
    if address.is_loopback() {
        return allow_loopback;
    }
    let refused = match address.octets() {
        [0, ..] | [224..=255, ..] => true,
        [192, 0, 0, _] | [198, 18 | 19, ..] => true,
        _ => address.is_link_local() || address.is_documentation() || address == CLOUD_METADATA,
    };
    !refused
}

fn is_v6_allowed(address: Ipv6Addr, allow_loopback: bool) -> bool {
    if address.is_loopback() {
        return allow_loopback;
    }
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_v4_allowed(v4, allow_loopback);
    }
    match address.segments() {
        // Unspecified and IPv4-compatible; NAT64, Teredo, 6to4 carry an IPv4 address that would escape the check.
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, ..] | [0x2001, 0, ..] | [0x2002, ..] => false,
        // Documentation, link-local, site-local, multicast.
        [0x2001, 0xdb8, ..] | [0xfe80..=0xfeff, ..] | [0xff00..=0xffff, ..] => false,
        _ => true,
    }
}

/// Whether a URL may be a channel's: scheme, no user in it, and an allowed address when it is a literal one.
///
/// # Errors
/// It may not; the error does not repeat the URL.
pub fn check_url(url: &Url, allow_loopback: bool) -> Result<(), NotifyError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(NotifyError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NotifyError::UserInUrl);
    }
    let allowed = match url.host() {
        Some(Host::Ipv4(v4)) => is_v4_allowed(v4, allow_loopback),
        Some(Host::Ipv6(v6)) => is_v6_allowed(v6, allow_loopback),
        Some(Host::Domain(name)) => !name.is_empty(),
        None => false,
    };
    if allowed { Ok(()) } else { Err(NotifyError::Refused) }
}

/// Resolves names without the C library and drops the addresses that are not allowed.
pub(super) struct GuardedResolver {
    resolver: Option<Arc<TokioResolver>>,
    allow_loopback: bool,
}

impl GuardedResolver {
    /// Reads the system's resolver configuration; without one no name resolves, rather than asking a server abroad.
    pub(super) fn new(allow_loopback: bool) -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        Self { resolver: resolver.ok().map(Arc::new), allow_loopback }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, allow_loopback) = (self.resolver.clone(), self.allow_loopback);
        Box::pin(async move {
            let resolver = resolver.ok_or(NotifyError::NoResolver)?;
            let found = resolver.lookup_ip(name.as_str()).await.map_err(|_| NotifyError::Unresolved)?;
            let allowed: Vec<_> = found
                .iter()
                .filter(|address| is_allowed(*address, allow_loopback))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if allowed.is_empty() {
                return Err(NotifyError::Refused.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_inside_are_refused() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "100.100.100.200",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "2001:db8::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
        ];
        for address in refused {
            assert!(!is_allowed(address.parse().unwrap(), false), "{address}");
        }
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_allowed(address.parse().unwrap(), true), "{address}");
        }
        assert!(!is_allowed("169.254.169.254".parse().unwrap(), true));
    }

    #[test]
    fn private_and_public_networks_are_allowed() {
        for address in ["10.1.2.3", "172.16.0.9", "192.168.1.7", "100.64.0.1", "203.119.1.1", "fd00::1", "2408::1"] {
            assert!(is_allowed(address.parse().unwrap(), false), "{address}");
        }
    }

    #[test]
    fn disguised_loopback_urls_are_refused() {
        let refused = [
            "http://127.1/x",
            "http://2130706433/x",
            "http://0x7f.1/x",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "ftp://10.0.0.1/",
            "file:///etc/passwd",
            "http://u:p@10.0.0.1/",
        ];
        for url in refused {
            assert!(check_url(&Url::parse(url).unwrap(), false).is_err(), "{url}");
        }
        for url in ["https://oapi.dingtalk.com/robot/send?access_token=t", "http://10.0.0.1:8080/hook"] {
            assert!(check_url(&Url::parse(url).unwrap(), false).is_ok(), "{url}");
        }
    }
}
