//! Three MariaDB nodes with Galera, each on a host of its own: any of them can be killed, started again, and cut off
//! from the others.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::folder::Folder;
use crate::network::Switch;
use crate::process::{Process, run};
use crate::wait_until;

/// Nodes: the fewest that have a majority when one is lost.
pub const NODES: usize = 3;
/// Until a node is a synced member; a whole copy of the data included.
const JOIN_PATIENCE: Duration = Duration::from_secs(90);
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
const USER: &str = "forewarn";
const PASSWORD: &str = "quiet-harbour-73";

/// A running cluster with an empty database `forewarn`.
#[derive(Debug)]
pub struct Galera {
    nodes: Vec<Option<Process>>,
    switch: Switch,
    folder: Folder,
}

impl Galera {
    /// Starts the cluster.
    ///
    /// # Errors
    /// When MariaDB or Galera is missing, or a node does not join.
    pub fn start() -> Result<Self> {
        ensure!(std::path::Path::new(PROVIDER).exists(), "{PROVIDER} is missing: install galera-4 (make machine)");
        let folder = Folder::new("galera")?;
        for node in 0..NODES {
            std::fs::create_dir_all(folder.join(&format!("tmp{node}")))?;
            std::fs::create_dir_all(folder.join(&format!("data{node}")))?;
        }
        // Not as root: the rsync that copies a node's data would write as nobody then.
        run(Command::new("chown").args(["-R", "mysql:mysql"]).arg(folder.path()))?;
        let mut install = Command::new("mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--datadir={}", folder.join("data0").display()));
        install.arg(format!("--tmpdir={}", folder.join("tmp0").display()));
        install.args(["--user=mysql", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        run(&mut install).context("install mariadb-server (make machine)")?;
        let mut cluster = Self { nodes: Vec::new(), switch: Switch::new(3)?, folder };
        cluster.nodes.resize_with(NODES, || None);
        cluster.launch(0, true)?;
        cluster.wait_for(0, 1)?;
        cluster.as_root(
            0,
            &format!(
                "CREATE DATABASE {USER} CHARACTER SET utf8mb4; CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
                 GRANT ALL ON {USER}.* TO '{USER}'@'%'"
            ),
        )?;
        for node in 1..NODES {
            cluster.launch(node, false)?;
            cluster.wait_for(node, node + 1)?;
        }
        Ok(cluster)
    }

    fn launch(&mut self, node: usize, new_cluster: bool) -> Result<()> {
        let (own, path) = (self.switch.address(node), |name: &str| self.folder.join(&format!("{name}{node}")));
        let all: Vec<String> = (0..NODES).map(|node| self.switch.address(node)).collect();
        let mut command = crate::network::enter(self.switch.host(node).name(), "mariadbd");
        command.arg("--no-defaults").args(["--user=mysql", "--skip-name-resolve", "--port=3306"]);
        command.arg(format!("--bind-address={own}")).arg(format!("--datadir={}", path("data").display()));
        command.arg(format!("--tmpdir={}", path("tmp").display())).arg(format!("--socket={}", path("sock").display()));
        command.arg(format!("--pid-file={}", path("pid").display()));
        command.args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=48M", "--max-allowed-packet=64M"]);
        command.args(["--binlog-format=ROW", "--innodb-autoinc-lock-mode=2", "--wsrep-on=ON"]);
        command.arg(format!("--wsrep-provider={PROVIDER}")).arg("--wsrep-sst-method=rsync");
        command.arg(format!("--wsrep-cluster-address=gcomm://{}", all.join(",")));
        command.arg(format!("--wsrep-node-address={own}")).arg(format!("--wsrep-sst-receive-address={own}:4444"));
        command.arg(format!(
            "--wsrep-provider-options=gmcast.listen_addr=tcp://{own}:4567;ist.recv_addr={own}:4568;gcache.size=64M;\
             evs.suspect_timeout=PT3S;evs.inactive_timeout=PT6S"
        ));
        if new_cluster {
            command.arg("--wsrep-new-cluster");
        }
        self.nodes[node] = Some(Process::start("mariadbd", &command, &path("log"))?);
        Ok(())
    }

    /// Kills a node as a power cut would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].take().context("the node does not run")?.kill()?;
        Ok(())
    }

    /// Starts a node again; it joins the others.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.launch(node, false)
    }

    /// Cuts a node off from the others; servers still reach it.
    ///
    /// # Errors
    /// When iptables is missing.
    pub fn cut(&self, node: usize) -> Result<()> {
        self.switch.cut(node)
    }

    /// Ends a cut.
    ///
    /// # Errors
    /// When it was not cut.
    pub fn heal(&self, node: usize) -> Result<()> {
        self.switch.heal(node)
    }

    /// Waits until all nodes are synced members of one cluster.
    ///
    /// # Errors
    /// When one is not in time.
    pub fn wait_whole(&mut self) -> Result<()> {
        (0..NODES).try_for_each(|node| self.wait_for(node, NODES))
    }

    fn wait_for(&mut self, node: usize, size: usize) -> Result<()> {
        let wanted = format!("{size}\n4\n");
        let socket = self.folder.join(&format!("sock{node}"));
        let process = self.nodes[node].as_mut().context("the node does not run")?;
        let ask = || {
            let sql = "SELECT variable_value FROM information_schema.global_status WHERE variable_name IN \
                       ('wsrep_cluster_size', 'wsrep_local_state') ORDER BY variable_name";
            Ok((root(&socket, sql)? == wanted).then_some(()))
        };
        process.wait_until(&format!("node {node} in a cluster of {size}"), JOIN_PATIENCE, ask)
    }

    /// The address of the database for a server that prefers this node and knows all of them.
    #[must_use]
    pub fn url(&self, first: usize) -> String {
        let nodes: Vec<String> =
            (0..NODES).map(|step| format!("{}:3306", self.switch.address((first + step) % NODES))).collect();
        format!("mysql://{USER}:{PASSWORD}@{}/{USER}", nodes.join(","))
    }

    /// The node that most connections of the product lead to.
    ///
    /// # Errors
    /// When a node does not answer.
    pub fn busiest(&self) -> Result<usize> {
        let connected = |node: usize| -> Result<usize> {
            let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{USER}'");
            Ok(self.as_root(node, &sql)?.trim().parse()?)
        };
        let counts = (0..NODES).map(connected).collect::<Result<Vec<_>>>()?;
        Ok((0..NODES).max_by_key(|node| counts[*node]).unwrap_or(0))
    }

    /// Rows of a query on one node, tab between fields.
    ///
    /// # Errors
    /// When the node refuses it.
    pub fn query(&self, node: usize, sql: &str) -> Result<Vec<String>> {
        let rows = self.as_root(node, &format!("SET SESSION wsrep_sync_wait = 1; USE {USER}; {sql}"))?;
        Ok(rows.lines().map(str::to_owned).collect())
    }

    /// Waits until a query answers the same on all nodes, and returns it.
    ///
    /// # Errors
    /// When they do not agree in time.
    pub fn agreed(&self, sql: &str) -> Result<Vec<String>> {
        wait_until("the nodes to agree", JOIN_PATIENCE, || {
            let first = self.query(0, sql)?;
            for node in 1..NODES {
                if self.query(node, sql)? != first {
                    return Ok(None);
                }
            }
            Ok(Some(first))
        })
    }

    fn as_root(&self, node: usize, sql: &str) -> Result<String> {
        root(&self.folder.join(&format!("sock{node}")), sql)
    }
}

fn root(socket: &std::path::Path, sql: &str) -> Result<String> {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--batch", "--skip-column-names", "--user=root", "--connect-timeout=3"]);
    client.arg(format!("--socket={}", socket.display())).args(["-e", sql]);
    run(&mut client)
}
