//! Pod Security Standards, as the label `pod-security.kubernetes.io/enforce` of a namespace asks.

use serde_json::Value;

use super::{flag, list, name, stored, text};
use crate::kind::Write;
use crate::status::ApiError;

/// Refuses a pod that its namespace's standard does not allow.
pub(super) fn enforce(write: &Write<'_>, pod: &Value) -> Result<(), ApiError> {
    let Some(namespace) = stored(write, "", "namespaces", "", text(pod, "/metadata/namespace")) else { return Ok(()) };
    let labels = namespace.pointer("/metadata/labels").cloned().unwrap_or_default();
    let label = |key: &str| {
        labels.get(format!("pod-security.kubernetes.io/{key}")).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let level = label("enforce");
    let version = match label("enforce-version") {
        v if v.is_empty() => "latest".to_owned(),
        v => v,
    };
    let problems = match level.as_str() {
        "baseline" => baseline(pod),
        "restricted" => [baseline(pod), restricted(pod)].concat(),
        _ => return Ok(()),
    };
    if problems.is_empty() {
        return Ok(());
    }
    let why = format!("violates PodSecurity \"{level}:{version}\": {}", problems.join(", "));
    Err(ApiError::forbidden(write.kind, name(pod), &why))
}

fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|key| list(pod, &format!("/spec/{key}")))
        .collect()
}

/// `container "a"` or `containers "a", "b"`.
fn quoted(found: &[&Value]) -> String {
    let names: Vec<String> = found.iter().map(|c| format!("{:?}", text(c, "/name"))).collect();
    format!("container{} {}", if names.len() > 1 { "s" } else { "" }, names.join(", "))
}

fn baseline(pod: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|f| flag(pod, &format!("/spec/{f}")))
        .map(|f| format!("{f}=true"))
        .collect();
    if !host.is_empty() {
        problems.push(format!("host namespaces ({})", host.join(", ")));
    }
    let all = containers(pod);
    let privileged: Vec<&Value> = all.iter().copied().filter(|c| flag(c, "/securityContext/privileged")).collect();
    if !privileged.is_empty() {
        problems.push(format!("privileged ({} must not set securityContext.privileged=true)", quoted(&privileged)));
    }
    let allowed = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let capable: Vec<&Value> = all
        .iter()
        .copied()
        .filter(|c| {
            list(c, "/securityContext/capabilities/add")
                .iter()
                .any(|cap| !allowed.contains(&cap.as_str().unwrap_or_default()))
        })
        .collect();
    if !capable.is_empty() {
        let mut names: Vec<String> = capable
            .iter()
            .flat_map(|c| list(c, "/securityContext/capabilities/add"))
            .filter_map(Value::as_str)
            .filter(|cap| !allowed.contains(cap))
            .map(|cap| format!("{cap:?}"))
            .collect();
        names.sort();
        names.dedup();
        problems.push(format!(
            "non-default capabilities ({} must not include {} in securityContext.capabilities.add)",
            quoted(&capable),
            names.join(", ")
        ));
    }
    let paths: Vec<String> = list(pod, "/spec/volumes")
        .iter()
        .filter(|v| v.get("hostPath").is_some())
        .map(|v| format!("{:?}", text(v, "/name")))
        .collect();
    if !paths.is_empty() {
        problems.push(format!(
            "hostPath volumes (volume{} {})",
            if paths.len() > 1 { "s" } else { "" },
            paths.join(", ")
        ));
    }
    let mut ports: Vec<String> = Vec::new();
    let with_ports: Vec<&Value> =
        all.iter().copied().filter(|c| list(c, "/ports").iter().any(|p| p.get("hostPort").is_some())).collect();
    for container in &with_ports {
        ports.extend(list(container, "/ports").iter().filter_map(|p| p.get("hostPort")).map(Value::to_string));
    }
    if !with_ports.is_empty() {
        problems.push(format!(
            "hostPort ({} uses hostPort{} {})",
            quoted(&with_ports),
            if ports.len() > 1 { "s" } else { "" },
            ports.join(", ")
        ));
    }
    problems
}

fn restricted(pod: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let all = containers(pod);
    let escalating: Vec<&Value> = all
        .iter()
        .copied()
        .filter(|c| c.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false)))
        .collect();
    if !escalating.is_empty() {
        problems.push(format!(
            "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
            quoted(&escalating)
        ));
    }
    let keeping: Vec<&Value> = all
        .iter()
        .copied()
        .filter(|c| !list(c, "/securityContext/capabilities/drop").iter().any(|d| d == "ALL"))
        .collect();
    let adding: Vec<&Value> = all
        .iter()
        .copied()
        .filter(|c| list(c, "/securityContext/capabilities/add").iter().any(|a| a != "NET_BIND_SERVICE"))
        .collect();
    if !keeping.is_empty() {
        problems.push(format!(
            "unrestricted capabilities ({} must set securityContext.capabilities.drop=[\"ALL\"])",
            quoted(&keeping)
        ));
    } else if !adding.is_empty() {
        problems.push(format!(
            "unrestricted capabilities ({} must not include other capabilities than NET_BIND_SERVICE)",
            quoted(&adding)
        ));
    }
    let kinds = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "image",
        "hostPath",
        "name",
    ];
    let volumes: Vec<&Value> = list(pod, "/spec/volumes")
        .iter()
        .filter(|v| v.as_object().is_some_and(|v| v.keys().any(|k| !kinds.contains(&k.as_str()))))
        .collect();
    if !volumes.is_empty() {
        let names: Vec<String> = volumes.iter().map(|v| format!("{:?}", text(v, "/name"))).collect();
        problems.push(format!(
            "restricted volume types (volume{} {} uses a restricted volume type)",
            if names.len() > 1 { "s" } else { "" },
            names.join(", ")
        ));
    }
    let pod_non_root = flag(pod, "/spec/securityContext/runAsNonRoot");
    let rooted: Vec<&Value> = all
        .iter()
        .copied()
        .filter(|c| match c.pointer("/securityContext/runAsNonRoot") {
            Some(own) => own != &Value::Bool(true),
            None => !pod_non_root,
        })
        .collect();
    if !rooted.is_empty() {
        problems.push(format!(
            "runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)",
            quoted(&rooted)
        ));
    }
    let zero = |v: &Value| v.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(0);
    let roots: Vec<&Value> = all.iter().copied().filter(|c| zero(c)).collect();
    if zero(&pod["spec"]) {
        problems.push("runAsUser=0 (pod must not set runAsUser=0)".into());
    } else if !roots.is_empty() {
        problems.push(format!("runAsUser=0 ({} must not set runAsUser=0)", quoted(&roots)));
    }
    let confined =
        |v: &Value| matches!(text(v, "/securityContext/seccompProfile/type"), "RuntimeDefault" | "Localhost");
    if !confined(&pod["spec"]) {
        let open: Vec<&Value> = all.iter().copied().filter(|c| !confined(c)).collect();
        if !open.is_empty() {
            problems.push(format!("seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")", quoted(&open)));
        }
    }
    problems
}
