//! MySQL without a C client: a synchronous diesel connection over diesel-async, so that queries are written once.
//!
//! Only delegation, and how a connection is opened. No query of the product belongs here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel::connection::{
    CacheSize, Connection, ConnectionSealed, Instrumentation, LoadConnection, MultiConnectionHelper, SimpleConnection,
    TransactionManager, TransactionManagerStatus,
};
use diesel::migration::MigrationConnection;
use diesel::query_builder::{Query, QueryFragment, QueryId};
use diesel::r2d2::R2D2Connection;
use diesel::sql_types::TypeMetadata;
use diesel::{ConnectionError, ConnectionResult, QueryResult};
use diesel_async::AsyncMysqlConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use mysql_async::prelude::Queryable;
use mysql_async::{Opts, OptsBuilder, SslOpts};

type Inner = AsyncConnectionWrapper<AsyncMysqlConnection>;

/// How long a connection may take to be made: a database that is down is an answer, not a wait.
const CONNECT_FOR: Duration = Duration::from_secs(5);

/// What each session says first. Strict whatever the server's own mode is: nothing is cut or bent in silence.
/// English messages, because "try restarting transaction" is how a deadlock is told. Row locks without gaps:
/// every race is decided by a unique key or a compare-and-set.
const SESSION: [&str; 3] = [
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
    "SET SESSION lc_messages = 'en_US'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
];

/// A node of a Galera cluster that lost its majority takes connections, SET and `SELECT 1`, and refuses every question
/// to a table; it says so here. Of other databases the answer is empty, or another word.
const CLUSTER_STATUS: &str = "SHOW STATUS LIKE 'wsrep_cluster_status'";
const NO_MAJORITY: &str = "non-Primary";

/// The parameter of the URL that names the CA of the database's certificate, PEM.
const CA_FILE: &str = "ca_file=";

/// The nodes that a URL names, `mysql://user:password@one:3306,two:3306/database`, and which of them answered last.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    urls: Vec<String>,
    ca_file: Option<String>,
    last: Arc<AtomicUsize>,
}

impl PartialEq for Nodes {
    fn eq(&self, other: &Self) -> bool {
        self.urls == other.urls
    }
}

impl Nodes {
    /// Takes a URL apart: one a node, without our own parameter.
    pub(super) fn of(url: &str) -> Self {
        let rest = url.strip_prefix("mysql://").unwrap_or(url);
        let (before, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
        let (authority, path) = before.split_once('/').unwrap_or((before, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let ours = query.into_iter().flat_map(|query| query.split('&')).find_map(|part| part.strip_prefix(CA_FILE));
        let theirs: Vec<&str> =
            query.into_iter().flat_map(|query| query.split('&')).filter(|part| !part.starts_with(CA_FILE)).collect();
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let query = if theirs.is_empty() { String::new() } else { format!("?{}", theirs.join("&")) };
        let urls = hosts.split(',').map(|host| format!("mysql://{user}{host}/{path}{query}")).collect();
        Self { urls, ca_file: ours.map(str::to_owned), last: Arc::default() }
    }

    /// Connects to the node that answered last, or to the next one that answers.
    pub(super) fn open(&self) -> ConnectionResult<MysqlConnection> {
        let first = self.last.load(Ordering::Relaxed);
        let mut failed = None;
        for step in 0..self.urls.len() {
            let number = (first + step) % self.urls.len();
            match MysqlConnection::open(&self.urls[number], self.ca_file.as_deref()) {
                Ok(connection) => {
                    self.last.store(number, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| ConnectionError::InvalidConnectionUrl("no host in the database url".into())))
    }
}

/// A MySQL connection that blocks; to be used on a blocking thread of a tokio runtime.
pub(super) struct MysqlConnection(Inner);

impl MysqlConnection {
    /// Connects; names are looked up without the C library's resolver.
    fn open(url: &str, ca_file: Option<&str>) -> ConnectionResult<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(bad)?;
        let opts = Opts::from_url(url).map_err(|error| ConnectionError::InvalidConnectionUrl(error.to_string()))?;
        let connection = runtime.block_on(async {
            let work = async {
                let resolved = resolve(opts.ip_or_hostname()).await?;
                let ssl = match ca_file {
                    Some(file) => {
                        std::fs::read(file).map_err(|error| {
                            let text = format!("cannot read ca_file {file} of the database url: {error}");
                            ConnectionError::BadConnection(text)
                        })?;
                        let known = opts.ssl_opts().cloned().unwrap_or_else(SslOpts::default);
                        Some(known.with_root_certs(vec![std::path::PathBuf::from(file).into()]))
                    }
                    None => opts.ssl_opts().cloned(),
                };
                let builder = OptsBuilder::from_opts(opts)
                    .ssl_opts(ssl)
                    .resolved_ips(resolved)
                    .prefer_socket(false)
                    .stmt_cache_size(0)
                    .client_found_rows(true)
                    .setup(SESSION.to_vec());
                let mut connection = mysql_async::Conn::new(builder).await.map_err(|error| refused(&error, ca_file))?;
                let status: Option<(String, String)> = connection.query_first(CLUSTER_STATUS).await.map_err(bad)?;
                if status.is_some_and(|(_, status)| status.eq_ignore_ascii_case(NO_MAJORITY)) {
                    return Err(bad("this node of the cluster has lost its majority"));
                }
                AsyncMysqlConnection::try_from(connection).await
            };
            tokio::time::timeout(CONNECT_FOR, work).await.unwrap_or_else(|_| {
                Err(ConnectionError::BadConnection(format!("no answer within {} s", CONNECT_FOR.as_secs())))
            })
        })?;
        Ok(Self(Inner::from(connection)))
    }
}

fn bad(error: impl std::fmt::Display) -> ConnectionError {
    ConnectionError::BadConnection(error.to_string())
}

/// What the driver says of a connection; of a certificate that is not trusted also what to do.
fn refused(error: &mysql_async::Error, ca_file: Option<&str>) -> ConnectionError {
    let text = error.to_string();
    if !text.contains("certificate") {
        return ConnectionError::BadConnection(text);
    }
    ConnectionError::BadConnection(match ca_file {
        Some(file) => format!("{text}; the certificate of the database is not one of ca_file {file}"),
        None => format!("{text}; name the CA of the database's certificate in its url, &ca_file=/path/ca.pem"),
    })
}

/// Addresses of a name; `None` when it is an address already.
async fn resolve(name: &str) -> Result<Option<Vec<IpAddr>>, ConnectionError> {
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    if name == "localhost" {
        return Ok(Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
    }
    let resolver = hickory_resolver::TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(bad)?;
    let found = resolver.lookup_ip(name).await.map_err(bad)?;
    Ok(Some(found.iter().collect()))
}

impl SimpleConnection for MysqlConnection {
    fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        self.0.batch_execute(query)
    }
}

impl ConnectionSealed for MysqlConnection {}

impl Connection for MysqlConnection {
    type Backend = diesel::mysql::Mysql;
    type TransactionManager = Transactions;

    fn establish(url: &str) -> ConnectionResult<Self> {
        Self::open(url, None)
    }

    fn execute_returning_count<T>(&mut self, source: &T) -> QueryResult<usize>
    where
        T: QueryFragment<Self::Backend> + QueryId,
    {
        self.0.execute_returning_count(source)
    }

    fn transaction_state(&mut self) -> &mut <Transactions as TransactionManager<Self>>::TransactionStateData {
        self.0.transaction_state()
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        self.0.instrumentation()
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.0.set_instrumentation(instrumentation);
    }

    fn set_prepared_statement_cache_size(&mut self, size: CacheSize) {
        self.0.set_prepared_statement_cache_size(size);
    }
}

impl LoadConnection for MysqlConnection {
    type Cursor<'conn, 'query> = <Inner as LoadConnection>::Cursor<'conn, 'query>;
    type Row<'conn, 'query> = <Inner as LoadConnection>::Row<'conn, 'query>;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> QueryResult<Self::Cursor<'conn, 'query>>
    where
        T: Query + QueryFragment<Self::Backend> + QueryId + 'query,
        Self::Backend: diesel::expression::QueryMetadata<T::SqlType>,
    {
        <Inner as LoadConnection>::load(&mut self.0, source)
    }
}

type InnerTransactions = <Inner as Connection>::TransactionManager;

/// Hands transactions to the wrapped connection.
pub(super) struct Transactions;

impl TransactionManager<MysqlConnection> for Transactions {
    type TransactionStateData = <InnerTransactions as TransactionManager<Inner>>::TransactionStateData;

    fn begin_transaction(conn: &mut MysqlConnection) -> QueryResult<()> {
        InnerTransactions::begin_transaction(&mut conn.0)
    }

    fn rollback_transaction(conn: &mut MysqlConnection) -> QueryResult<()> {
        InnerTransactions::rollback_transaction(&mut conn.0)
    }

    fn commit_transaction(conn: &mut MysqlConnection) -> QueryResult<()> {
        InnerTransactions::commit_transaction(&mut conn.0)
    }

    fn transaction_manager_status_mut(conn: &mut MysqlConnection) -> &mut TransactionManagerStatus {
        InnerTransactions::transaction_manager_status_mut(&mut conn.0)
    }
}

impl R2D2Connection for MysqlConnection {
    fn ping(&mut self) -> QueryResult<()> {
        self.0.batch_execute("SELECT 1")
    }
}

impl MigrationConnection for MysqlConnection {
    fn setup(&mut self) -> QueryResult<usize> {
        self.0.setup()
    }
}

impl MultiConnectionHelper for MysqlConnection {
    fn to_any<'a>(lookup: &mut <Self::Backend as TypeMetadata>::MetadataLookup) -> &mut (dyn std::any::Any + 'a) {
        lookup
    }

    fn from_any(lookup: &mut dyn std::any::Any) -> Option<&mut <Self::Backend as TypeMetadata>::MetadataLookup> {
        lookup.downcast_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::Nodes;

    #[test]
    fn a_url_may_name_several_nodes_and_a_ca() {
        let nodes = Nodes::of("mysql://u:p%40x@one:3306,two:3307/fw?require_ssl=true&ca_file=/etc/db.pem");
        assert_eq!(
            nodes.urls,
            ["mysql://u:p%40x@one:3306/fw?require_ssl=true", "mysql://u:p%40x@two:3307/fw?require_ssl=true"]
        );
        assert_eq!(nodes.ca_file.as_deref(), Some("/etc/db.pem"));
        for plain in ["mysql://u:p@h:1/d", "mysql://h/d?verify_ca=false", "mysql://[::1]:3306/d"] {
            assert_eq!(Nodes::of(plain).urls, [plain]);
        }
    }
}
