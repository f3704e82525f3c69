//! From what a user wrote to what it means: defaults, aliases, units, rules across fields. All mistakes at once.

mod config;
mod follow;
mod replication;

use std::fmt;

pub use config::{check_config_map, place};
pub use follow::follow;
use kube::ResourceExt as _;

use crate::names;
use crate::quantity::Size;
use crate::resolved::{
    DisruptionBudget, InitialUser, PodIntent, Probes, Resolved, RootPassword, SecretKey, Services, StorageIntent,
};
use crate::spec::{GeneratedSecretKeyRef, MariaDB, MariaDBSpec, PodDisruptionBudgetTemplate, Storage};

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The field's path, such as `spec.replication.primary.podIndex`.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Collects mistakes.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(pub(crate) Vec<Mistake>);

impl Mistakes {
    pub(crate) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Mistake { path: path.into(), message: message.into() });
    }

    /// The one value of a field that has several names.
    pub(crate) fn agree<T: PartialEq + fmt::Debug + Clone>(&mut self, aliases: &[(&str, Option<T>)]) -> Option<T> {
        let mut given = aliases.iter().filter_map(|(path, value)| value.clone().map(|value| (*path, value)));
        let (first_path, first) = given.next()?;
        for (path, value) in given {
            if value != first {
                self.add(path, format!("{value:?} contradicts {first_path}: {first:?}"));
            }
        }
        Some(first)
    }
}

/// A value by a dotted path.
pub(crate) fn dig<'a>(value: &'a serde_json::Value, path: &str) -> Option<&'a serde_json::Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

/// The typed intent of an object, or everything that is wrong with it.
pub fn resolve(object: &MariaDB) -> Result<Resolved, Vec<Mistake>> {
    let mut mistakes = Mistakes::default();
    let mut warnings = Mistakes::default();
    let name = object.name_any();
    if name.len() > names::MAX_NAME {
        mistakes.add(
            "metadata.name",
            format!(
                "{} characters; at most {} fit with the names of what is made from it",
                name.len(),
                names::MAX_NAME
            ),
        );
    }
    if name.contains('.') || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        mistakes.add(
            "metadata.name",
            "services are named by it: lower-case letters, digits and '-', beginning with a letter",
        );
    }
    // Every field by name: a new one cannot be forgotten here.
    let MariaDBSpec {
        image,
        image_pull_policy,
        image_pull_secrets,
        replicas,
        root_password_secret_key_ref,
        root_empty_password,
        database,
        username,
        password_secret_key_ref,
        storage,
        my_cnf,
        my_cnf_config_map_key_ref,
        time_zone,
        port,
        service,
        primary_service,
        secondary_service,
        resources,
        affinity,
        tolerations,
        node_selector,
        topology_spread_constraints,
        priority_class_name,
        pod_metadata,
        inherit_metadata,
        security_context,
        pod_security_context,
        service_account_name,
        termination_grace_period_seconds,
        env,
        env_from,
        volumes,
        volume_mounts,
        init_containers,
        sidecar_containers,
        liveness_probe,
        readiness_probe,
        startup_probe,
        update_strategy,
        pod_disruption_budget,
        metrics: _,
        tls,
        network_policy: _,
        adopt,
        bootstrap_from,
        replication,
        suspend,
        maintenance,
        unreadable,
    } = object.spec.clone();
    mistakes.0.extend(unreadable);

    let replicas = u32::try_from(replicas.unwrap_or(1)).unwrap_or_else(|_| {
        mistakes.add("spec.replicas", "must not be negative");
        0
    });
    let replicates = replication.as_ref().is_some_and(|replication| replication.enabled == Some(true));
    if replicas > 1 && !replicates {
        mistakes.add("spec.replicas", "more than one member needs spec.replication.enabled: true");
    }
    if adopt.as_ref().is_some_and(|adopt| adopt.enabled == Some(true)) {
        mistakes.add(
            "spec.adopt.enabled",
            "adopting an existing StatefulSet is not built yet; nothing is made for this object",
        );
    }
    if bootstrap_from.is_some() {
        mistakes.add(
            "spec.bootstrapFrom",
            "first data from elsewhere is not built yet; nothing is made for this object, so that no empty server is taken for it",
        );
    }
    let port = u16::try_from(port.unwrap_or(3306)).unwrap_or_else(|_| {
        mistakes.add("spec.port", "must be from 1 to 65535");
        3306
    });
    let root_password = match (root_password_secret_key_ref, root_empty_password.unwrap_or(false)) {
        (Some(_), true) => {
            mistakes.add("spec.rootEmptyPassword", "contradicts spec.rootPasswordSecretKeyRef");
            RootPassword::Empty
        }
        (None, true) => RootPassword::Empty,
        (reference, false) => RootPassword::Secret(secret_key(reference, &names::root_secret(&name))),
    };
    let user = match (username, password_secret_key_ref) {
        (Some(user), Some(password)) => {
            if matches!(user.as_str(), "root" | "mysql" | "mariadb.sys") || user.is_empty() || user.len() > 80 {
                mistakes.add(
                    "spec.username",
                    format!("{user:?} cannot be made: it is the server's own, empty or too long"),
                );
            }
            Some(InitialUser { name: user, password: secret_key(Some(password), "") })
        }
        (Some(_), None) => {
            mistakes.add("spec.passwordSecretKeyRef", "needed with spec.username");
            None
        }
        (None, Some(_)) => {
            mistakes.add("spec.username", "needed with spec.passwordSecretKeyRef");
            None
        }
        (None, None) => None,
    };
    let my_cnf_options = my_cnf.as_deref().map(crate::mycnf::options).unwrap_or_default();
    let from_spec = replication.as_ref().and_then(|replication| replication.server_id_start_index);
    let from_spec = from_spec.and_then(|start| u32::try_from(start).ok());
    let from_my_cnf = config::check(&my_cnf_options, port, &mut mistakes, &mut warnings);
    let server_id_start =
        mistakes.agree(&[("spec.myCnf (server-id)", from_my_cnf), ("spec.replication.serverIdStartIndex", from_spec)]);
    for variable in env.iter().flatten() {
        if let Some(field) = config::refused_variable(&variable.name) {
            mistakes.add(
                format!("spec.env[{}]", variable.name),
                format!("accounts and databases are made from the spec: use {field}"),
            );
        }
    }
    if let Some(replication) = replication.as_ref().filter(|_| !replicates) {
        replication::refuse_disabled(replication, &mut mistakes);
    }
    let replication = replication
        .filter(|_| replicates)
        .map(|replication| replication::resolve(object, replication, replicas, &mut mistakes, &mut warnings));
    let tls = tls.unwrap_or_default();

    let resolved = Resolved {
        namespace: object.namespace().unwrap_or_default(),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        image: image.unwrap_or_else(|| "mariadb:11.8".to_owned()),
        image_pull_policy,
        image_pull_secrets: image_pull_secrets.unwrap_or_default(),
        replicas,
        root_password,
        database,
        user,
        storage: resolve_storage(storage.unwrap_or_default()),
        my_cnf,
        my_cnf_from: my_cnf_config_map_key_ref,
        time_zone,
        port,
        services: Services {
            own: service.unwrap_or_default(),
            primary: primary_service.unwrap_or_default(),
            secondary: secondary_service,
        },
        pod: PodIntent {
            resources,
            affinity,
            tolerations: tolerations.unwrap_or_default(),
            node_selector: node_selector.unwrap_or_default(),
            topology_spread_constraints: topology_spread_constraints.unwrap_or_default(),
            priority_class_name,
            metadata: pod_metadata.unwrap_or_default(),
            inherit: inherit_metadata.unwrap_or_default(),
            security_context,
            pod_security_context,
            service_account: service_account_name,
            termination_grace_seconds: termination_grace_period_seconds.unwrap_or(300),
            env: env.unwrap_or_default(),
            env_from: env_from.unwrap_or_default(),
            volumes: volumes.unwrap_or_default(),
            volume_mounts: volume_mounts.unwrap_or_default(),
            init_containers: init_containers.unwrap_or_default(),
            sidecars: sidecar_containers.unwrap_or_default(),
        },
        probes: Probes { liveness: liveness_probe, readiness: readiness_probe, startup: startup_probe },
        update_strategy: update_strategy.unwrap_or_default().type_.unwrap_or_default(),
        disruption_budget: disruption_budget(pod_disruption_budget, &mut mistakes),
        tls: tls.enabled.unwrap_or(true),
        tls_required: tls.required.unwrap_or(false),
        replication,
        server_id_start,
        suspend: suspend.unwrap_or(false),
        maintenance: maintenance.unwrap_or(false),
        warnings: warnings.0,
        name,
    };
    if resolved.tls_required && !resolved.tls {
        mistakes.add("spec.tls.required", "contradicts spec.tls.enabled: false");
    }
    if mistakes.0.is_empty() { Ok(resolved) } else { Err(mistakes.0) }
}

/// A reference with its defaults; one that names no Secret is made under our own name.
fn secret_key(reference: Option<GeneratedSecretKeyRef>, own: &str) -> SecretKey {
    match reference {
        Some(GeneratedSecretKeyRef { name, key, generate }) => {
            let key = key.unwrap_or_else(|| "password".to_owned());
            SecretKey { name, key, generate: generate.unwrap_or(false), ours: false }
        }
        None => SecretKey { name: own.to_owned(), key: "password".to_owned(), generate: true, ours: true },
    }
}

fn resolve_storage(storage: Storage) -> StorageIntent {
    let Storage {
        size,
        storage_class_name,
        resize_in_use_volumes,
        wait_for_volume_resize,
        ephemeral,
        pvc_retention_policy,
        volume_claim_template,
    } = storage;
    let from_template = volume_claim_template
        .as_ref()
        .and_then(|claim| claim.resources.as_ref()?.requests.as_ref()?.get("storage").cloned())
        .and_then(|quantity| Size::new(quantity.0).ok());
    StorageIntent {
        size: size.or(from_template).unwrap_or_else(|| Size::new("1Gi").expect("a constant that parses")),
        class: storage_class_name.or_else(|| volume_claim_template.as_ref()?.storage_class_name.clone()),
        resize_in_use: resize_in_use_volumes.unwrap_or(true),
        wait_for_resize: wait_for_volume_resize.unwrap_or(true),
        ephemeral: ephemeral.unwrap_or(false),
        retention: pvc_retention_policy.unwrap_or_default(),
        template: volume_claim_template,
    }
}

fn disruption_budget(template: Option<PodDisruptionBudgetTemplate>, mistakes: &mut Mistakes) -> DisruptionBudget {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let PodDisruptionBudgetTemplate { min_available, max_unavailable } = template.unwrap_or_default();
    match (min_available, max_unavailable) {
        (Some(_), Some(_)) => {
            mistakes.add("spec.podDisruptionBudget", "minAvailable and maxUnavailable exclude each other");
            DisruptionBudget::MaxUnavailable(IntOrString::Int(1))
        }
        (Some(min), None) => DisruptionBudget::MinAvailable(min),
        (None, Some(max)) => DisruptionBudget::MaxUnavailable(max),
        (None, None) => DisruptionBudget::MaxUnavailable(IntOrString::Int(1)),
    }
}
