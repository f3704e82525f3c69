//! The smaller kinds.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{flag, list, name, stored, text};
use crate::kind::{Operation, Write};
use crate::schema::quantity::Quantity;
use crate::status::ApiError;

/// Secrets: `stringData` is folded into `data`.
pub fn secret(secret: &mut Value) {
    let Some(object) = secret.as_object_mut() else { return };
    if let Some(Value::Object(texts)) = object.remove("stringData") {
        let mut data = object.remove("data").and_then(|d| d.as_object().cloned()).unwrap_or_default();
        for (key, text) in texts {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
        if !data.is_empty() {
            object.insert("data".into(), data.into());
        }
    }
}

/// Namespaces: the name as a label.
pub fn namespace(namespace: &mut Value) {
    let own = name(namespace).to_owned();
    if !namespace["metadata"]["labels"].is_object() {
        namespace["metadata"]["labels"] = json!({});
    }
    namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = own.into();
}

/// Namespaces: the finalizer that empties them, which only `finalize` takes away.
pub fn prepare_namespace(namespace: &mut Value, old: Option<&Value>) {
    match old {
        None => {
            let mut finalizers = list(namespace, "/spec/finalizers").to_vec();
            if !finalizers.iter().any(|f| f == "kubernetes") {
                finalizers.push("kubernetes".into());
            }
            namespace["spec"] = json!({"finalizers": finalizers});
            namespace["status"] = json!({"phase": "Active"});
        }
        // None at all is what `finalize` says; a list that is absent was not sent.
        Some(old) => match (namespace.pointer("/spec/finalizers"), old.pointer("/spec/finalizers")) {
            (Some(Value::Array(given)), _) if given.is_empty() => {
                namespace["spec"].as_object_mut().map(|s| s.remove("finalizers"));
            }
            (None, Some(kept)) => namespace["spec"]["finalizers"] = kept.clone(),
            _ => {}
        },
    }
}

/// Namespaces: some may not be deleted.
pub fn admit_namespace(write: &Write<'_>, _object: Option<&mut Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let protected = ["default", "kube-system", "kube-public"];
    match old.filter(|old| write.operation == Operation::Delete && protected.contains(&name(old))) {
        Some(old) => Err(ApiError::forbidden(write.kind, name(old), "this namespace may not be deleted")),
        None => Ok(()),
    }
}

/// Workloads: defaults of their pod templates and claims.
pub fn workload(object: &mut Value) {
    super::pod::template(object, "/spec/template/spec");
    let template_labels = object.pointer("/spec/template/metadata/labels").cloned();
    if object.get("kind") == Some(&json!("ReplicationController"))
        && object.pointer("/spec/selector").is_none()
        && let Some(labels) = template_labels
    {
        object["spec"]["selector"] = labels;
    }
    for claim in object.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        claim["apiVersion"] = "v1".into();
        claim["kind"] = "PersistentVolumeClaim".into();
    }
}

/// Jobs: selector and labels from the uid, completions from parallelism.
pub fn job(job: &mut Value) {
    super::pod::template(job, "/spec/template/spec");
    if job.pointer("/spec/completions").is_none()
        && job.pointer("/spec/completionMode") != Some(&json!("Indexed"))
        && job["spec"].is_object()
    {
        let explicit = job.pointer("/spec/parallelism").is_some_and(|p| p != &json!(1));
        if !explicit {
            job["spec"]["completions"] = 1.into();
        }
    }
    let uid = text(job, "/metadata/uid").to_owned();
    if uid.is_empty() || flag(job, "/spec/manualSelector") || !job["spec"].is_object() {
        return;
    }
    let own = name(job).to_owned();
    job["spec"]["manualSelector"] = false.into();
    let labels = [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &own),
        ("controller-uid", &uid),
        ("job-name", &own),
    ];
    for (key, value) in labels {
        let target = &mut job["spec"]["template"]["metadata"]["labels"];
        if target.is_null() {
            *target = json!({});
        }
        target[key] = value.as_str().into();
    }
    let selector = &mut job["spec"]["selector"]["matchLabels"];
    if selector.is_null() {
        *selector = json!({});
    }
    selector["batch.kubernetes.io/controller-uid"] = uid.into();
    let labels = job.pointer("/spec/template/metadata/labels").cloned();
    if job.pointer("/metadata/labels").is_none()
        && let Some(labels) = labels
    {
        job["metadata"]["labels"] = labels;
    }
}

/// CronJobs: defaults of their templates.
pub fn cron_job(job: &mut Value) {
    super::pod::template(job, "/spec/jobTemplate/spec/template/spec");
    // The job's own defaults come when the job is made.
    if let Some(spec) = job.pointer_mut("/spec/jobTemplate/spec").and_then(Value::as_object_mut) {
        for field in ["parallelism", "backoffLimit", "completionMode", "suspend", "podReplacementPolicy"] {
            let default = match field {
                "parallelism" => json!(1),
                "backoffLimit" => json!(6),
                "completionMode" => json!("NonIndexed"),
                "suspend" => json!(false),
                _ => json!("TerminatingOrFailed"),
            };
            if spec.get(field) == Some(&default) {
                spec.remove(field);
            }
        }
    }
}

/// Claims: the protection finalizer.
pub fn prepare_claim(claim: &mut Value, old: Option<&Value>) {
    protect(claim, old, "kubernetes.io/pvc-protection");
}

/// Volumes: the protection finalizer, and since when they are in their phase.
pub fn prepare_volume(volume: &mut Value, old: Option<&Value>) {
    protect(volume, old, "kubernetes.io/pv-protection");
    if old.is_none_or(|old| text(old, "/status/phase") != text(volume, "/status/phase")) {
        volume["status"]["lastPhaseTransitionTime"] = crate::gc::now().into();
    }
}

/// DaemonSets: an annotation counts their templates, for old clients.
pub fn prepare_daemon_set(set: &mut Value, old: Option<&Value>) {
    let count = "deprecated.daemonset.template.generation";
    let before =
        old.map_or(0, |old| old["metadata"]["annotations"][count].as_str().unwrap_or("0").parse().unwrap_or(0));
    let changed = old.is_none_or(|old| old["spec"]["template"] != set["spec"]["template"]);
    let now: i64 = before + i64::from(changed);
    if !set["metadata"]["annotations"].is_object() {
        set["metadata"]["annotations"] = json!({});
    }
    set["metadata"]["annotations"][count] = now.to_string().into();
}

fn protect(object: &mut Value, old: Option<&Value>, finalizer: &str) {
    if old.is_some() {
        return;
    }
    let mut finalizers = list(object, "/metadata/finalizers").to_vec();
    if !finalizers.iter().any(|f| f == finalizer) {
        finalizers.push(finalizer.into());
    }
    object["metadata"]["finalizers"] = finalizers.into();
}

/// Claims: the default storage class, and whether they may grow.
pub fn admit_claim(write: &Write<'_>, claim: Option<&mut Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(claim) = claim else { return Ok(()) };
    if old.is_none() && claim.pointer("/spec/storageClassName").is_none() {
        let classes = super::all(write, "storage.k8s.io", "storageclasses", None);
        let is_default =
            |c: &&Value| text(c, "/metadata/annotations/storageclass.kubernetes.io~1is-default-class") == "true";
        if let Some(class) = classes.iter().find(is_default) {
            claim["spec"]["storageClassName"] = name(class).into();
        }
    }
    if let Some(old) = old.filter(|_| write.subresource.is_empty()) {
        let size = |c: &Value| Quantity::parse(text(c, "/spec/resources/requests/storage"));
        let bound = text(old, "/status/phase") == "Bound";
        if bound && size(claim) > size(old) {
            let class = stored(write, "storage.k8s.io", "storageclasses", "", text(claim, "/spec/storageClassName"));
            if !class.is_some_and(|c| flag(&c, "/allowVolumeExpansion")) {
                let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
                return Err(ApiError::forbidden(write.kind, name(claim), why));
            }
        }
    }
    super::quota::admit(write, Some(claim))
}

/// NetworkPolicies: the types that their rules imply.
pub fn network_policy(policy: &mut Value) {
    if policy.pointer("/spec/policyTypes").is_none() && policy["spec"].is_object() {
        let mut types = vec!["Ingress"];
        if !list(policy, "/spec/egress").is_empty() {
            types.push("Egress");
        }
        policy["spec"]["policyTypes"] = json!(types);
    }
}

/// Roles without rules show none.
pub fn role(role: &mut Value) {
    if role.get("rules").is_none() && role.get("aggregationRule").is_none() {
        role["rules"] = Value::Null;
    }
}

/// Role bindings: the group of subjects that are users or groups.
pub fn binding(binding: &mut Value) {
    for subject in binding.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if matches!(text(subject, "/kind"), "User" | "Group") && subject.get("apiGroup").is_none() {
            subject["apiGroup"] = "rbac.authorization.k8s.io".into();
        }
    }
}

/// Quotas count what may be created of any kind in a namespace.
pub fn admit_any(write: &Write<'_>, object: Option<&mut Value>, _old: Option<&Value>) -> Result<(), ApiError> {
    super::quota::admit(write, object)
}

/// Nodes: their name as a label is left to the kubelet; status begins empty.
pub fn node(node: &mut Value) {
    if let Some(spec) = node.get_mut("spec").filter(|s| s.is_object())
        && spec.get("podCIDR").is_some()
        && spec.get("podCIDRs").is_none()
    {
        spec["podCIDRs"] = json!([spec["podCIDR"]]);
    }
}
