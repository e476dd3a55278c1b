//! Telling: an incident's change becomes a message in a channel's language and format, and goes out at the speed that
//! the receiver allows. HTTP 200 is not delivery: the answer's body decides.
//!
//! The only room that speaks HTTP as a client. It knows no store: the caller hands it claimed deliveries of one channel
//! and stores the outcomes. URLs, tokens and secrets never reach a log, an error or an answer.

mod channel;
mod client;
mod delivery;
mod guard;
mod limiter;
mod message;
mod text;
mod time;

#[cfg(test)]
mod tests;

pub use client::{Notice, Notifier, NotifySettings};
pub use delivery::{Letter, Outcome};
pub use guard::check_url;
pub use message::Site;

/// Why something cannot be sent. None of these repeats a URL.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotifyError {
    /// The URL does not parse.
    #[error("the channel's url is not a url")]
    Url,
    /// Neither http nor https.
    #[error("the channel's url must begin with https:// or http://")]
    Scheme,
    /// A user name or password in the URL.
    #[error("the channel's url must not contain a user name or password")]
    UserInUrl,
    /// The address is not one that a channel may have.
    #[error(
        "the channel's address is loopback, link-local or otherwise special and is refused; for a relay on this machine set notify.allow_loopback"
    )]
    Refused,
    /// The system has no resolver configuration.
    #[error("no name can be resolved: the resolver configuration of the system cannot be read")]
    NoResolver,
    /// The name has no address.
    #[error("the channel's name does not resolve to an address")]
    Unresolved,
    /// The extra certificates do not parse.
    #[error("the extra CA certificates are not PEM certificates: {0}")]
    Certificates(String),
    /// The HTTP client cannot be made.
    #[error("the http client cannot be made: {0}")]
    Client(String),
    /// The secret cannot be used as a key.
    #[error("the channel's secret cannot be used for a signature")]
    Secret,
}
