//! `kubectl mariadb status|why|switchover`: a topology as people look at it, and ask things of it.
//!
//! All of it goes through the API server, with the rights of whoever types it: objects, their status, events, and the
//! `PrimaryChange` objects that the operator leaves. Nothing here decides anything.

mod status;
mod switchover;
mod time;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use api::primary_change::PrimaryChange;
use api::{MariaDB, names};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};

pub(crate) use switchover::SwitchoverArguments;

/// Which cluster and namespace, as kubectl has it.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// Namespace; the context's own by default.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The kubeconfig file; $KUBECONFIG or ~/.kube/config by default.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context.
    #[arg(long)]
    context: Option<String>,
}

/// `status` and `why`: what about.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// A MariaDB object of the topology; may be left out where the namespace has one topology.
    name: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// `why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArguments {
    /// A MariaDB object of the topology; may be left out where the namespace has one topology.
    name: Option<String>,
    /// So many changes of primary, newest first.
    #[arg(short, long, default_value_t = 5)]
    last: usize,
    #[command(flatten)]
    cluster: ClusterArguments,
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")
}

/// `kubectl mariadb status`.
pub(crate) fn status(arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let topology = Topology::find(&arguments.cluster, arguments.name.as_deref()).await?;
        print!("{}", status::text(&topology, &topology.changes().await?, time::now()));
        if let Some(hint) = topology.no_operator().await {
            println!("\n{hint}");
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// `kubectl mariadb why`.
pub(crate) fn why(arguments: &WhyArguments) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let topology = Topology::find(&arguments.cluster, arguments.name.as_deref()).await?;
        let (changes, events) = (topology.changes().await?, topology.warnings().await?);
        print!("{}", why::text(&topology, &changes, &events, arguments.last, time::now()));
        Ok(ExitCode::SUCCESS)
    })
}

/// `kubectl mariadb switchover`.
pub(crate) fn switchover(arguments: &SwitchoverArguments) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(switchover::run(arguments))
}

async fn connect(arguments: &ClusterArguments) -> anyhow::Result<(Client, String)> {
    let options = KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
    let config = match &arguments.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
            Config::from_custom_kubeconfig(file, &options).await.with_context(|| path.display().to_string())?
        }
        None => match Config::from_kubeconfig(&options).await {
            Ok(config) => config,
            // In a pod there is no file.
            Err(error) => match Config::incluster() {
                Ok(config) if arguments.context.is_none() => config,
                _ => return Err(error).context("the kubeconfig"),
            },
        },
    };
    let namespace = arguments.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let server = config.cluster_url.to_string();
    Ok((Client::try_from(config).with_context(|| format!("no way to {server}"))?, namespace))
}

/// A topology as the API has it.
pub(crate) struct Topology {
    client: Client,
    namespace: String,
    root: MariaDB,
    /// All objects of it, the root first.
    objects: Vec<MariaDB>,
}

impl Topology {
    async fn find(arguments: &ClusterArguments, name: Option<&str>) -> anyhow::Result<Self> {
        let (client, namespace) = connect(arguments).await?;
        let api: Api<MariaDB> = Api::namespaced(client.clone(), &namespace);
        let all = api.list(&ListParams::default()).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 => {
                anyhow::anyhow!("this cluster has no MariaDB objects: is the operator installed?")
            }
            _ => anyhow::Error::new(error).context(format!("list the MariaDB objects of namespace {namespace}")),
        })?;
        let root = choose(&all.items, name, &namespace)?;
        let root_name = root.name_any();
        let mut objects: Vec<MariaDB> =
            all.items.iter().filter(|object| root_of(&all.items, object) == Some(&root_name)).cloned().collect();
        objects.sort_by_key(|object| (object.name_any() != root_name, object.name_any()));
        Ok(Self { client, namespace, root: root.clone(), objects })
    }

    fn name(&self) -> String {
        self.root.name_any()
    }

    /// Reads the root again.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        let api: Api<MariaDB> = Api::namespaced(self.client.clone(), &self.namespace);
        self.root = api.get(&self.name()).await.with_context(|| format!("read mariadb {}", self.name()))?;
        Ok(())
    }

    /// Changes of its primary, newest first.
    async fn changes(&self) -> anyhow::Result<Vec<PrimaryChange>> {
        let api: Api<PrimaryChange> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_topology = ListParams::default().labels(&format!("{}={}", names::TOPOLOGY_LABEL, self.name()));
        let mut all = api.list(&of_topology).await.context("list the changes of primary")?.items;
        all.sort_by_key(|change| std::cmp::Reverse(change.began.0));
        Ok(all)
    }

    /// Whether nobody looks after the topology, as far as whoever asks may know that.
    async fn no_operator(&self) -> Option<&'static str> {
        let selector = ListParams::default().labels("app.kubernetes.io/name=mariadb-operator");
        let pods = Api::<Pod>::all(self.client.clone()).list(&selector).await.ok()?;
        let ready = |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            pod.metadata.deletion_timestamp.is_none()
                && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        (!pods.items.iter().any(ready)).then_some(
            "No operator is ready: what stands here is what the last one wrote, and nobody would act now \
             (kubectl get pods -A -l app.kubernetes.io/name=mariadb-operator)",
        )
    }

    /// Warnings about its root, newest first.
    async fn warnings(&self) -> anyhow::Result<Vec<k8s_openapi::api::events::v1::Event>> {
        let api: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = api.list(&ListParams::default()).await.context("list events")?.items;
        let mut all: Vec<_> = all
            .into_iter()
            .filter(|event| event.type_.as_deref() == Some("Warning"))
            .filter(|event| {
                event.regarding.as_ref().is_some_and(|about| {
                    about.kind.as_deref() == Some("MariaDB") && about.name.as_deref() == Some(&self.name())
                })
            })
            .collect();
        all.sort_by_key(|event| std::cmp::Reverse(time::of_event(event)));
        Ok(all)
    }
}

/// The root that a name means.
fn choose<'a>(all: &'a [MariaDB], name: Option<&str>, namespace: &str) -> anyhow::Result<&'a MariaDB> {
    if let Some(name) = name {
        let Some(object) = all.iter().find(|object| object.name_any() == name) else {
            let known: Vec<String> = all.iter().map(kube::ResourceExt::name_any).collect();
            match known.is_empty() {
                true => bail!("there is no MariaDB {name} in namespace {namespace} (there is none at all)"),
                false => bail!("there is no MariaDB {name} in namespace {namespace}; there are: {}", known.join(", ")),
            }
        };
        let Some(root) = root_of(all, object) else {
            let primary = primary_of(object).map_or("", String::as_str);
            bail!("{name} belongs to no topology: its primaryName, {primary}, leads to no object");
        };
        return all.iter().find(|object| object.name_any() == *root).context("the root was just found");
    }
    let roots: Vec<&MariaDB> = all.iter().filter(|object| primary_of(object).is_none()).collect();
    match roots.as_slice() {
        [] => bail!("there is no MariaDB in namespace {namespace}; -n names another one"),
        [only] => Ok(only),
        several => {
            let names: Vec<String> = several.iter().map(|object| object.name_any()).collect();
            bail!("namespace {namespace} has several topologies, name one of them: {}", names.join(", "))
        }
    }
}

fn primary_of(object: &MariaDB) -> Option<&String> {
    object.spec.replication.as_ref()?.replica.as_ref()?.primary_name.as_ref()
}

/// The name of the root that an object's `primaryName`s lead to.
fn root_of<'a>(all: &'a [MariaDB], object: &'a MariaDB) -> Option<&'a String> {
    let mut current = object;
    for _ in 0..=all.len() {
        match primary_of(current) {
            None => return current.metadata.name.as_ref(),
            Some(primary) => current = all.iter().find(|object| object.metadata.name.as_ref() == Some(primary))?,
        }
    }
    None
}

/// Rows as columns.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn object(name: &str, primary: Option<&str>) -> MariaDB {
        let replication = match primary {
            Some(primary) => json!({"enabled": true, "replica": {"primaryName": primary}}),
            None => json!({"enabled": true}),
        };
        serde_json::from_value(json!({"apiVersion": "k8s.mariadb.com/v1alpha1", "kind": "MariaDB",
            "metadata": {"name": name, "namespace": "ns"}, "spec": {"replication": replication}}))
        .expect("a MariaDB")
    }

    #[test]
    fn names_lead_to_topologies() {
        let all = vec![object("db", None), object("reader", Some("db")), object("far", Some("reader"))];
        let chosen = |all: &[MariaDB], name: Option<&str>| {
            choose(all, name, "ns").map(kube::ResourceExt::name_any).map_err(|error| error.to_string())
        };
        assert_eq!(chosen(&all, None), Ok("db".to_owned()));
        assert_eq!(chosen(&all, Some("far")), Ok("db".to_owned()));
        assert_eq!(
            chosen(&all, Some("x")),
            Err("there is no MariaDB x in namespace ns; there are: db, reader, far".to_owned())
        );
        let two = vec![object("db", None), object("shop", None), object("lost", Some("gone"))];
        assert!(chosen(&two, None).expect_err("refused").ends_with("name one of them: db, shop"));
        assert!(chosen(&two, Some("lost")).expect_err("refused").contains("primaryName, gone"));
        assert!(chosen(&[], None).expect_err("refused").contains("no MariaDB in namespace ns"));
    }
}
