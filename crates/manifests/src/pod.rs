//! The pod of a member.

use std::collections::BTreeMap;

use api::names;
use api::resolved::{RootPassword, SecretKey};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    KeyToPath, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use protocol::{AGENT_PORT, env, paths};

use crate::services::SERVES_LABEL;
use crate::{Plan, probes};

/// uid and gid of the server, as in MariaDB's images.
const USER: i64 = 999;

pub(crate) fn template(plan: &Plan<'_>, config_hash: &str) -> PodTemplateSpec {
    let object = plan.object;
    let parts = &object.pod;
    let mut labels = parts.inherit.labels.clone().unwrap_or_default();
    labels.extend(parts.metadata.labels.clone().unwrap_or_default());
    labels.extend(names::labels(&object.name, &plan.root.name));
    if !plan.apart {
        labels.insert(SERVES_LABEL.to_owned(), "true".to_owned());
    }
    let mut annotations = parts.inherit.annotations.clone().unwrap_or_default();
    annotations.extend(parts.metadata.annotations.clone().unwrap_or_default());
    annotations.insert("kubectl.kubernetes.io/default-container".to_owned(), "mariadb".to_owned());
    annotations.insert(names::CONFIG_HASH_ANNOTATION.to_owned(), config_hash.to_owned());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(plan.service_account_name().to_owned()),
            termination_grace_period_seconds: Some(parts.termination_grace_seconds),
            security_context: Some(pod_security(parts.pod_security_context.clone())),
            image_pull_secrets: some(object.image_pull_secrets.clone()),
            affinity: parts.affinity.clone(),
            tolerations: some(parts.tolerations.clone()),
            node_selector: (!parts.node_selector.is_empty()).then(|| parts.node_selector.clone()),
            topology_spread_constraints: some(parts.topology_spread_constraints.clone()),
            priority_class_name: parts.priority_class_name.clone(),
            // Services of the whole namespace would each add variables to the server's environment.
            enable_service_links: Some(false),
            init_containers: Some([vec![install(plan)], parts.init_containers.clone()].concat()),
            containers: [vec![mariadb(plan)], parts.sidecars.clone()].concat(),
            volumes: Some([volumes(plan), parts.volumes.clone()].concat()),
            ..PodSpec::default()
        }),
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn pod_security(user: Option<PodSecurityContext>) -> PodSecurityContext {
    let user = user.unwrap_or_default();
    PodSecurityContext {
        run_as_non_root: user.run_as_non_root.or(Some(true)),
        run_as_user: user.run_as_user.or(Some(USER)),
        run_as_group: user.run_as_group.or(Some(USER)),
        fs_group: user.fs_group.or(Some(USER)),
        fs_group_change_policy: user.fs_group_change_policy.or_else(|| Some("OnRootMismatch".into())),
        seccomp_profile: user
            .seccomp_profile
            .or_else(|| Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() })),
        ..user
    }
}

fn container_security(user: Option<SecurityContext>) -> SecurityContext {
    let user = user.unwrap_or_default();
    SecurityContext {
        allow_privilege_escalation: user.allow_privilege_escalation.or(Some(false)),
        read_only_root_filesystem: user.read_only_root_filesystem.or(Some(true)),
        capabilities: user.capabilities.or_else(|| Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None })),
        ..user
    }
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
}

/// Copies the agent into the pod: the user's image need not have it.
fn install(plan: &Plan<'_>) -> Container {
    Container {
        name: "agent".into(),
        image: Some(plan.operator_image.clone()),
        image_pull_policy: plan.operator_pull_policy.clone(),
        command: Some(vec!["/mariadb-operator".into(), "install".into(), paths::BINARY.into()]),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "10m"), ("memory", "32Mi")])),
            limits: Some(quantities(&[("cpu", "1"), ("memory", "128Mi")])),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security(None)),
        volume_mounts: Some(vec![mount("agent", paths::BINARY_DIR, false)]),
        ..Container::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn mariadb(plan: &Plan<'_>) -> Container {
    let object = plan.object;
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let mut variables = vec![
        field(env::POD_NAME, "metadata.name"),
        field(env::POD_NAMESPACE, "metadata.namespace"),
        field(env::POD_UID, "metadata.uid"),
    ];
    if let RootPassword::Secret(secret) = &object.root_password {
        variables.push(from_secret("MARIADB_ROOT_PASSWORD", secret));
    }
    variables.extend(object.pod.env.iter().cloned());
    Container {
        name: "mariadb".into(),
        image: Some(object.image.clone()),
        image_pull_policy: object.image_pull_policy.map(|policy| policy.as_str().to_owned()),
        command: Some(vec![paths::BINARY.into(), "agent".into()]),
        env: Some(variables),
        env_from: some(object.pod.env_from.clone()),
        ports: Some(vec![port("mysql", object.port), port("agent", AGENT_PORT)]),
        resources: object.pod.resources.clone(),
        security_context: Some(container_security(object.pod.security_context.clone())),
        startup_probe: Some(probes::startup(object.probes.startup.as_ref())),
        liveness_probe: Some(probes::liveness(object.probes.liveness.as_ref())),
        readiness_probe: Some(probes::readiness(object.probes.readiness.as_ref())),
        volume_mounts: Some([mounts(plan), object.pod.volume_mounts.clone()].concat()),
        ..Container::default()
    }
}

fn from_secret(name: &str, secret: &SecretKey) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.name.clone(),
                key: secret.key.clone(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn mounts(plan: &Plan<'_>) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount(names::CLAIM, paths::VOLUME, false),
        mount("agent", paths::BINARY_DIR, true),
        mount("run", paths::RUN_DIR, false),
        mount("tmp", "/tmp", false),
        mount("config", paths::CONFIG_DIR, true),
        mount("server-tls", paths::SERVER_TLS_DIR, true),
        mount("agent-tls", paths::AGENT_TLS_DIR, true),
    ];
    for (name, path, _, _) in password_volumes(plan) {
        mounts.push(mount(name, path, true));
    }
    mounts
}

type PasswordVolume<'a> = (&'static str, &'static str, &'static str, &'a SecretKey);

/// Volume, folder, file and Secret of each password that the agent reads.
fn password_volumes<'a>(plan: &'a Plan<'_>) -> Vec<PasswordVolume<'a>> {
    let mut all = Vec::new();
    if let RootPassword::Secret(secret) = &plan.object.root_password {
        all.push(("root-password", paths::ROOT_SECRET_DIR, paths::ROOT_PASSWORD, secret));
    }
    if let Some(account) = plan.account {
        all.push((
            "replication-password",
            paths::REPLICATION_SECRET_DIR,
            paths::REPLICATION_PASSWORD,
            &account.password,
        ));
    }
    if let Some(user) = &plan.object.user {
        all.push(("user-password", paths::USER_SECRET_DIR, paths::USER_PASSWORD, &user.password));
    }
    all
}

fn volumes(plan: &Plan<'_>) -> Vec<Volume> {
    let empty = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let secret = |name: &str, secret: String, items: Option<Vec<KeyToPath>>| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            items,
            // Readable for the pod's group only (fsGroup).
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![
        empty("agent"),
        empty("run"),
        empty("tmp"),
        Volume {
            name: "config".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::config(&plan.object.name),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        secret("server-tls", names::server_tls(&plan.object.name), None),
        secret("agent-tls", names::agent_tls(&plan.object.name), None),
    ];
    for (name, _, file, key) in password_volumes(plan) {
        let item = KeyToPath { key: key.key.clone(), path: file.to_owned(), ..KeyToPath::default() };
        volumes.push(secret(name, key.name.clone(), Some(vec![item])));
    }
    if plan.object.storage.ephemeral {
        volumes.push(Volume {
            name: names::CLAIM.into(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(plan.object.storage.size.quantity()),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}
