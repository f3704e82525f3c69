//! Writers on a scenario's own topology: do writes go on, do they wait; and in the end the checker.

use std::time::Duration;

use super::super::cluster::{Cluster, Failure, broken};
use super::clients::Clients;
use super::entry::Entry;
use super::{ROOT, judge, member_names, set_up_as};

/// Clients of the service of the primary, who note what they were told.
pub(crate) struct Load<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    members: Vec<String>,
    clients: Clients,
}

impl<'a> Load<'a> {
    /// A topology with so many members, and two writers on it. `extra` is YAML below `spec.replication`, indented by four.
    pub(crate) fn start(cluster: &'a Cluster, namespace: &'a str, members: u32, extra: &str) -> Result<Self, Failure> {
        set_up_as(cluster, namespace, members, extra)?;
        let primary = Entry::of(cluster, namespace, &format!("{ROOT}-primary"))?;
        let clients = Clients::start(&primary, &primary, 2, 0)?;
        let load = Self { cluster, namespace, members: member_names(members), clients };
        load.goes_on(Duration::from_secs(10))?;
        Ok(load)
    }

    /// Writes are acknowledged, again or still.
    pub(crate) fn goes_on(&self, limit: Duration) -> Result<(), Failure> {
        let before = self.clients.acknowledged();
        self.cluster.eventually("writes go on", limit, || match self.clients.acknowledged() - before {
            0 => Err("none is acknowledged".to_owned()),
            _ => Ok(()),
        })
    }

    /// For so long no write is acknowledged: each client gave up waiting for its answer.
    pub(crate) fn waits(&self, time: Duration) -> Result<(), Failure> {
        // What was on its way.
        std::thread::sleep(Duration::from_millis(500));
        let before = self.clients.acknowledged();
        std::thread::sleep(time);
        match self.clients.acknowledged() - before {
            0 => Ok(()),
            more => Err(broken(format_args!("{more} writes were acknowledged, and nobody could acknowledge them"))),
        }
    }

    /// Writers end; all members are equal, and have whatever was acknowledged.
    pub(crate) fn judged(self) -> Result<(), Failure> {
        let Self { cluster, namespace, members, clients } = self;
        judge(cluster, namespace, &members, &clients.finish()?)
    }
}
