//! Hosts with a network of their own (namespaces) and the cables between them, which can be cut
//! and healed. Nothing here has a route to the outside.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::process::run;

/// Tells parts of one test run apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

fn next_name(kind: &str) -> String {
    // Interface names have at most 15 bytes.
    format!("fw{kind}{}-{}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::SeqCst))
}

/// A command that will run in the network of a namespace. Only the network differs: `ip netns exec`
/// would also mount a fresh `/sys`, without the cgroup folders that an agent reads.
pub(crate) fn enter(name: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{name}")).arg("--").arg(program);
    command
}

/// A host of its own, as far as the network goes; loopback is up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// When iproute2 is missing or the test is not root.
    pub fn new() -> Result<Self> {
        let namespace = Self { name: next_name("n") };
        run(Command::new("ip").args(["netns", "add", &namespace.name])).context("make a network namespace")?;
        run(namespace.command("ip").args(["link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// A command that will run in it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        enter(&self.name, program)
    }

    /// Its name, for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// One end of a cable.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The test's own network, where server, database and chat room listen.
    Here,
    /// A host of its own.
    In(&'a Namespace),
}

impl Place<'_> {
    fn ip(self) -> Command {
        match self {
            Self::Here => Command::new("ip"),
            Self::In(namespace) => namespace.command("ip"),
        }
    }
}

/// A cable from a place to a host of its own, with an address at each end.
#[derive(Debug)]
pub struct Cable {
    near: String,
    near_address: String,
    far: String,
    far_address: String,
    far_namespace: Namespace,
}

impl Cable {
    /// Lays a cable to a new host and brings it up.
    ///
    /// # Errors
    /// When the links cannot be made.
    pub fn from(near_place: Place<'_>) -> Result<Self> {
        let far_namespace = Namespace::new()?;
        let network = std::process::id() % 200 + 20;
        let third = NEXT.fetch_add(1, Ordering::SeqCst) % 250;
        let cable = Self {
            near: next_name("a"),
            near_address: format!("10.{network}.{third}.1"),
            far: next_name("b"),
            far_address: format!("10.{network}.{third}.2"),
            far_namespace,
        };
        run(Command::new("ip").args(["link", "add", &cable.near, "type", "veth", "peer", "name", &cable.far]))?;
        let ends = [
            (near_place, &cable.near, &cable.near_address),
            (Place::In(&cable.far_namespace), &cable.far, &cable.far_address),
        ];
        for (place, link, address) in ends {
            if let Place::In(namespace) = place {
                run(Command::new("ip").args(["link", "set", link, "netns", namespace.name()]))?;
            }
            run(place.ip().args(["addr", "add", &format!("{address}/30"), "dev", link]))?;
            run(place.ip().args(["link", "set", link, "up"]))?;
        }
        Ok(cable)
    }

    /// The address of the near place, which the far host can dial.
    #[must_use]
    pub fn near_address(&self) -> &str {
        &self.near_address
    }

    /// The address of the far host.
    #[must_use]
    pub fn far_address(&self) -> &str {
        &self.far_address
    }

    /// The host at the far end.
    #[must_use]
    pub fn host(&self) -> &Namespace {
        &self.far_namespace
    }

    /// Cuts it: every packet from now on is lost, in silence, and no connection is reset.
    ///
    /// # Errors
    /// When iptables is missing.
    pub fn cut(&self) -> Result<()> {
        self.far_firewall("-A")
    }

    /// Joins it again.
    ///
    /// # Errors
    /// When it was not cut.
    pub fn heal(&self) -> Result<()> {
        self.far_firewall("-D")
    }

    /// The rules live in the far host, so the firewall of this machine is never touched.
    fn far_firewall(&self, change: &str) -> Result<()> {
        for (chain, direction) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            run(self.far_namespace.command("iptables").args([change, chain, direction, &self.far, "-j", "DROP"]))?;
        }
        Ok(())
    }
}

/// A switch with hosts of their own plugged in, and this machine: all on one network, without a route to anywhere.
#[derive(Debug)]
pub struct Switch {
    box_namespace: Namespace,
    network: String,
    hosts: Vec<(Namespace, String)>,
}

impl Switch {
    /// Makes a switch with `count` hosts (at most six).
    ///
    /// # Errors
    /// When the links cannot be made.
    pub fn new(count: u8) -> Result<Self> {
        let third = NEXT.fetch_add(1, Ordering::SeqCst) % 250;
        let network = format!("10.{}.{third}", std::process::id() % 200 + 20);
        let mut switch = Self { box_namespace: Namespace::new()?, network, hosts: Vec::new() };
        run(switch.box_namespace.command("ip").args(["link", "add", "bridge", "type", "bridge"]))?;
        run(switch.box_namespace.command("ip").args(["link", "set", "bridge", "up"]))?;
        switch.plug(None, 254)?;
        for number in 1..=count {
            let host = Namespace::new()?;
            let link = switch.plug(Some(&host), number)?;
            switch.hosts.push((host, link));
        }
        Ok(switch)
    }

    fn plug(&self, host: Option<&Namespace>, number: u8) -> Result<String> {
        let (near, far) = (next_name("a"), next_name("b"));
        run(Command::new("ip").args(["link", "add", &near, "type", "veth", "peer", "name", &far]))?;
        run(Command::new("ip").args(["link", "set", &far, "netns", self.box_namespace.name()]))?;
        run(self.box_namespace.command("ip").args(["link", "set", &far, "master", "bridge", "up"]))?;
        let place = host.map_or(Place::Here, Place::In);
        if let Place::In(host) = place {
            run(Command::new("ip").args(["link", "set", &near, "netns", host.name()]))?;
        }
        run(place.ip().args(["addr", "add", &format!("{}.{number}/24", self.network), "dev", &near]))?;
        run(place.ip().args(["link", "set", &near, "up"]))?;
        Ok(near)
    }

    /// The address of a host, from 0.
    #[must_use]
    pub fn address(&self, host: usize) -> String {
        format!("{}.{}", self.network, host + 1)
    }

    /// The namespace of a host.
    #[must_use]
    pub fn host(&self, host: usize) -> &Namespace {
        &self.hosts[host].0
    }

    /// Cuts a host off from the other hosts; this machine still reaches it. Nothing is reset, packets are lost.
    ///
    /// # Errors
    /// When iptables is missing.
    pub fn cut(&self, host: usize) -> Result<()> {
        self.firewall(host, "-A")
    }

    /// Ends a cut.
    ///
    /// # Errors
    /// When it was not cut.
    pub fn heal(&self, host: usize) -> Result<()> {
        self.firewall(host, "-D")
    }

    fn firewall(&self, host: usize, change: &str) -> Result<()> {
        let (namespace, link) = &self.hosts[host];
        let others = format!("{}.0/29", self.network);
        run(namespace.command("iptables").args([change, "INPUT", "-i", link, "-s", &others, "-j", "DROP"]))?;
        run(namespace.command("iptables").args([change, "OUTPUT", "-o", link, "-d", &others, "-j", "DROP"]))?;
        Ok(())
    }
}
