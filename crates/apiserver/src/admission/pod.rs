//! Pods: defaults of pod specifications, wherever they stand, and what admission fills in.

use rand::Rng as _;
use serde_json::{Map, Value, json};

use super::{flag, list, name, stored, text};
use crate::kind::{Operation, Write};
use crate::schema::quantity::Quantity;
use crate::status::ApiError;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Defaults of a pod specification that depend on other fields.
pub fn spec(spec: &mut Value) {
    let host_network = flag(spec, "/hostNetwork");
    if let Some(account) = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).cloned() {
        spec["serviceAccountName"] = account.clone();
        spec["serviceAccount"] = account;
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(volume) = volume.as_object_mut().filter(|v| v.len() < 2) {
            volume.insert("emptyDir".into(), json!({}));
        }
    }
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.get("imagePullPolicy").is_none() {
                let policy = if latest(text(container, "/image")) { "Always" } else { "IfNotPresent" };
                container["imagePullPolicy"] = policy.into();
            }
            for port in
                container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter(|_| host_network)
            {
                if port.get("hostPort").is_none() {
                    port["hostPort"] = port["containerPort"].clone();
                }
            }
        }
    }
}

/// Whether an image has the tag `latest`, or none.
fn latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Defaults of a pod.
pub fn default(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) {
        self::spec(spec);
        if spec.get("enableServiceLinks").is_none() {
            spec["enableServiceLinks"] = true.into();
        }
        for key in ["initContainers", "containers"] {
            for container in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
                let limits =
                    container.pointer("/resources/limits").and_then(Value::as_object).cloned().unwrap_or_default();
                if limits.is_empty() {
                    continue;
                }
                let requests =
                    container["resources"].as_object_mut().map(|r| r.entry("requests").or_insert_with(|| json!({})));
                if let Some(requests) = requests.and_then(Value::as_object_mut) {
                    for (resource, limit) in limits {
                        requests.entry(resource).or_insert(limit);
                    }
                }
            }
        }
    }
}

/// Defaults of the pod template at `pointer`.
pub fn template(object: &mut Value, pointer: &str) {
    if let Some(spec) = object.pointer_mut(pointer).filter(|s| s.is_object()) {
        self::spec(spec);
    }
}

/// What only the server sets.
pub fn prepare(pod: &mut Value, old: Option<&Value>) {
    if let Some(class) = old.and_then(|old| old.pointer("/status/qosClass"))
        && pod.pointer("/status/qosClass").is_none()
    {
        pod["status"]["qosClass"] = class.clone();
    }
    if old.is_none() {
        let mut status = json!({"phase": "Pending", "qosClass": quality(pod)});
        if !list(pod, "/spec/schedulingGates").is_empty() {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": now,
                "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        pod["status"] = status;
    }
}

/// The quality-of-service class.
pub fn quality(pod: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for container in list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers")) {
        let amounts = |key: &str| {
            container.pointer(&format!("/resources/{key}")).and_then(Value::as_object).cloned().unwrap_or_default()
        };
        let (limits, requests) = (amounts("limits"), amounts("requests"));
        any |= ["cpu", "memory"].iter().any(|r| limits.contains_key(*r) || requests.contains_key(*r));
        guaranteed &= ["cpu", "memory"]
            .iter()
            .all(|r| limits.contains_key(*r) && (requests.get(*r).is_none() || limits.get(*r) == requests.get(*r)));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        _ => "Burstable",
    }
}

/// Admission of a pod.
pub fn admit(write: &Write<'_>, pod: Option<&mut Value>, _old: Option<&Value>) -> Result<(), ApiError> {
    let Some(pod) = pod else { return Ok(()) };
    if write.operation == Operation::Update {
        tolerations(pod);
    }
    if write.operation != Operation::Create {
        return Ok(());
    }
    let forbidden = |pod: &Value, why: &str| ApiError::forbidden(write.kind, name(pod), why);
    let namespace = text(pod, "/metadata/namespace").to_owned();
    priority(write, pod)?;
    super::limits::apply(write, pod)?;
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_none() {
        let account = match text(pod, "/spec/serviceAccountName") {
            "" => "default".to_owned(),
            other => other.to_owned(),
        };
        pod["spec"]["serviceAccountName"] = account.as_str().into();
        pod["spec"]["serviceAccount"] = account.as_str().into();
        let Some(owner) = stored(write, "", "serviceaccounts", &namespace, &account) else {
            let why =
                format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
            return Err(forbidden(pod, &why));
        };
        let automount =
            pod.pointer("/spec/automountServiceAccountToken").or_else(|| owner.get("automountServiceAccountToken"));
        if automount != Some(&Value::Bool(false)) {
            mount_token(pod);
        }
        if list(pod, "/spec/imagePullSecrets").is_empty() && !list(&owner, "/imagePullSecrets").is_empty() {
            pod["spec"]["imagePullSecrets"] = owner["imagePullSecrets"].clone();
        }
    }
    tolerations(pod);
    pod["status"]["qosClass"] = quality(pod).into();
    super::podsecurity::enforce(write, pod)?;
    super::quota::admit(write, Some(pod))
}

fn priority(write: &Write<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let class = text(pod, "/spec/priorityClassName").to_owned();
    let (value, policy) = match class.as_str() {
        "" => {
            let classes = super::all(write, "scheduling.k8s.io", "priorityclasses", None);
            match classes.iter().find(|c| flag(c, "/globalDefault")) {
                Some(default) => {
                    pod["spec"]["priorityClassName"] = name(default).into();
                    (default["value"].as_i64().unwrap_or(0), default.get("preemptionPolicy").cloned())
                }
                None => (0, None),
            }
        }
        "system-node-critical" => (2_000_001_000, None),
        "system-cluster-critical" => (2_000_000_000, None),
        other => match stored(write, "scheduling.k8s.io", "priorityclasses", "", other) {
            Some(found) => (found["value"].as_i64().unwrap_or(0), found.get("preemptionPolicy").cloned()),
            None => {
                return Err(ApiError::forbidden(
                    write.kind,
                    name(pod),
                    &format!("no PriorityClass with name {other} was found"),
                ));
            }
        },
    };
    if let Some(given) = pod.pointer("/spec/priority").and_then(Value::as_i64).filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(write.kind, name(pod), &why));
    }
    pod["spec"]["priority"] = value.into();
    if pod.pointer("/spec/preemptionPolicy").is_none() {
        pod["spec"]["preemptionPolicy"] = policy.unwrap_or_else(|| "PreemptLowerPriority".into());
    }
    Ok(())
}

/// Gives a pod the token of its service account.
fn mount_token(pod: &mut Value) {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let suffix: String = (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect();
    let existing =
        list(pod, "/spec/volumes").iter().map(name_of).find(|n| n.starts_with("kube-api-access-")).map(str::to_owned);
    let had = existing.is_some();
    let volume = existing.unwrap_or_else(|| format!("kube-api-access-{suffix}"));
    let mut mounted = false;
    for key in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            if list(container, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == TOKEN_PATH) {
                continue;
            }
            let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH});
            match container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
            mounted = true;
        }
    }
    if mounted && !had {
        let source = json!({"name": volume, "projected": {"sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ], "defaultMode": 420}});
        match pod["spec"].get_mut("volumes").and_then(Value::as_array_mut) {
            Some(volumes) => volumes.push(source),
            None => pod["spec"]["volumes"] = json!([source]),
        }
    }
}

fn name_of(value: &Value) -> &str {
    text(value, "/name")
}

/// Pods stay five minutes on a node that is not ready or not reachable.
fn tolerations(pod: &mut Value) {
    let mut tolerations = list(pod, "/spec/tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let has = tolerations.iter().any(|t| {
            (text(t, "/key") == key || (text(t, "/key").is_empty() && text(t, "/operator") == "Exists"))
                && matches!(text(t, "/effect"), "" | "NoExecute")
        });
        if !has {
            tolerations
                .push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
}

/// What a pod asks for: the larger of its init containers and of the sum of its containers.
pub(super) fn requested(pod: &Value, kind: &str, resource: &str) -> Option<Quantity> {
    let amount = |container: &Value| {
        let amounts: Option<&Map<String, Value>> =
            container.pointer(&format!("/resources/{kind}")).and_then(Value::as_object);
        amounts.and_then(|a| a.get(resource)).and_then(Value::as_str).and_then(Quantity::parse)
    };
    let containers: Vec<Quantity> = list(pod, "/spec/containers").iter().filter_map(amount).collect();
    let sum = containers.iter().copied().reduce(|a, b| a + b);
    let initial = list(pod, "/spec/initContainers").iter().filter_map(amount).max();
    sum.max(initial)
}
