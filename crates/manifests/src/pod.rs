//! A member's pod. It holds to the Pod Security level `restricted`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, ObjectFieldSelector, PodSecurityContext, PodSpec,
    PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use protocol::{AGENT_PORT, PROBE_PORT, env, paths};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use api::names;
use api::resolved::RootPassword;

use crate::{Input, SERVES_LABEL, hash, metadata, probes, rbac, volumes};

/// Pod annotation: hash of all that a pod must be replaced for. A pod with another one is out of date. The image that the
/// agent is copied from does not count: an upgrade of the operator restarts no database.
pub const POD_HASH_ANNOTATION: &str = "k8s.mariadb.com/pod-hash";

/// User and group `mysql` of the official image.
const MYSQL: i64 = 999;
/// Name of the server's container.
const MARIADB: &str = "mariadb";
/// Where the init container sees the volume (its image has a file where the server's container has the folder).
const INSTALL_DIR: &str = "/install";

pub(crate) fn template(input: &Input<'_>, restart_hash: &str) -> PodTemplateSpec {
    let pod = &input.object.pod;
    let (volumes, mounts) = volumes::volumes(input);
    let mut init_containers = vec![installer(input)];
    init_containers.extend(pod.init_containers.clone());
    let mut containers = vec![server(input, mounts)];
    containers.extend(pod.sidecars.clone());
    let spec = PodSpec {
        service_account_name: Some(rbac::account_name(input)),
        automount_service_account_token: Some(true),
        // Their variables would look like settings to the image's own scripts.
        enable_service_links: Some(false),
        security_context: Some(over(pod_security(), pod.pod_security_context.as_ref())),
        termination_grace_period_seconds: Some(pod.termination_grace_seconds),
        image_pull_secrets: some(&input.object.image_pull_secrets),
        affinity: pod.affinity.clone(),
        tolerations: some(&pod.tolerations),
        node_selector: (!pod.node_selector.is_empty()).then(|| pod.node_selector.clone()),
        topology_spread_constraints: some(&pod.topology_spread_constraints),
        priority_class_name: pod.priority_class_name.clone(),
        volumes: Some(volumes),
        init_containers: Some(init_containers),
        containers,
        ..PodSpec::default()
    };
    let mut meta = metadata::pod(input);
    if input.serves() {
        meta.labels.get_or_insert_default().insert(SERVES_LABEL.to_owned(), "topology".to_owned());
    }
    let mut counted = spec.clone();
    if let Some(installer) = counted.init_containers.as_mut().and_then(|all| all.first_mut()) {
        installer.image = None;
    }
    let pod_hash = hash(&(&counted, &meta, restart_hash));
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert("kubectl.kubernetes.io/default-container".to_owned(), MARIADB.to_owned());
    annotations.insert(names::CONFIG_HASH_ANNOTATION.to_owned(), restart_hash.to_owned());
    annotations.insert(POD_HASH_ANNOTATION.to_owned(), pod_hash);
    PodTemplateSpec { metadata: Some(meta), spec: Some(spec) }
}

fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// `given` field by field over `ours`.
fn over<T: Serialize + DeserializeOwned + Clone>(ours: T, given: Option<&T>) -> T {
    fn merge(ours: &mut Value, given: Value) {
        match (ours, given) {
            (Value::Object(ours), Value::Object(given)) => {
                for (key, value) in given {
                    merge(ours.entry(key).or_insert(Value::Null), value);
                }
            }
            (ours, given) => *ours = given,
        }
    }
    let Some(given) = given else { return ours };
    let (Ok(mut merged), Ok(given)) = (serde_json::to_value(&ours), serde_json::to_value(given)) else { return ours };
    merge(&mut merged, given);
    serde_json::from_value(merged).unwrap_or(ours)
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_user: Some(MYSQL),
        run_as_group: Some(MYSQL),
        fs_group: Some(MYSQL),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        ..SecurityContext::default()
    }
}

/// Copies the agent into the pod.
fn installer(input: &Input<'_>) -> Container {
    let quantities = |cpu: &str, memory: &str| -> BTreeMap<String, Quantity> {
        [("cpu", cpu), ("memory", memory)].map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))).into()
    };
    let file = paths::BINARY.rsplit('/').next().unwrap_or_default();
    Container {
        name: volumes::BINARY.to_owned(),
        image: Some(input.operator_image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/mariadb-operator".to_owned(), "install".to_owned(), format!("{INSTALL_DIR}/{file}")]),
        volume_mounts: Some(vec![VolumeMount {
            name: volumes::BINARY.to_owned(),
            mount_path: INSTALL_DIR.to_owned(),
            ..VolumeMount::default()
        }]),
        resources: Some(ResourceRequirements {
            requests: Some(quantities("10m", "32Mi")),
            limits: Some(quantities("1", "256Mi")),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        ..Container::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
    }
}

fn environment(input: &Input<'_>) -> Vec<EnvVar> {
    let mut all = vec![
        field(env::POD_NAME, "metadata.name"),
        field(env::POD_NAMESPACE, "metadata.namespace"),
        field(env::POD_UID, "metadata.uid"),
    ];
    if let RootPassword::Secret(key) = &input.object.root_password {
        all.push(EnvVar {
            name: "MARIADB_ROOT_PASSWORD".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: key.name.clone(),
                    key: key.key.clone(),
                    ..SecretKeySelector::default()
                }),
                ..EnvVarSource::default()
            }),
        });
    }
    all.extend(input.object.pod.env.clone());
    all
}

fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn server(input: &Input<'_>, mounts: Vec<VolumeMount>) -> Container {
    let object = input.object;
    Container {
        name: MARIADB.to_owned(),
        image: Some(object.image.clone()),
        image_pull_policy: object.image_pull_policy.map(|policy| policy.as_str().to_owned()),
        command: Some(vec![paths::BINARY.to_owned(), "agent".to_owned()]),
        env: Some(environment(input)),
        env_from: some(&object.pod.env_from),
        ports: Some(vec![port("mysql", object.port), port("agent", AGENT_PORT), port(probes::PORT, PROBE_PORT)]),
        resources: object.pod.resources.clone(),
        volume_mounts: Some(mounts),
        startup_probe: Some(probes::startup(object.probes.startup.as_ref())),
        liveness_probe: Some(probes::liveness(object.probes.liveness.as_ref())),
        readiness_probe: Some(probes::readiness(object.probes.readiness.as_ref())),
        security_context: Some(over(container_security(), object.pod.security_context.as_ref())),
        ..Container::default()
    }
}
