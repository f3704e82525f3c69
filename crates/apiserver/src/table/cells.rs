//! The expressions of `data/tables.json`.
//!
//! `.path|fallback` is a field; `#path` a count, zero where absent; everything else is a word
//! with arguments, defined here.

use serde_json::{Map, Value};

use super::{age, duration, pod};

/// The cell that `expression` gives for `object`.
pub(super) fn cell(object: &Value, expression: &str, now: jiff::Timestamp) -> Value {
    if let Some(path) = expression.strip_prefix('.') {
        let (path, fallback) = path.split_once('|').unwrap_or((path, ""));
        return match at(object, path) {
            None | Some(Value::Null) => fallback.into(),
            Some(Value::String(text)) if text.is_empty() => fallback.into(),
            Some(Value::Number(number)) => number.to_string().into(),
            Some(value) => value.clone(),
        };
    }
    if let Some(path) = expression.strip_prefix('#') {
        return at(object, path).and_then(Value::as_i64).unwrap_or(0).into();
    }
    let mut words = expression.split(' ');
    let (word, arguments): (&str, Vec<&str>) = (words.next().unwrap_or_default(), words.collect());
    let argument = arguments.first().copied().unwrap_or_default();
    match word {
        "age" => age(text(object, "metadata.creationTimestamp"), now).into(),
        "since" => text(object, argument).map_or("<none>".to_owned(), |t| age(Some(t), now)).into(),
        "ratio" => {
            let count = |path: Option<&&str>| path.and_then(|p| at(object, p)).and_then(Value::as_i64).unwrap_or(0);
            format!("{}/{}", count(arguments.first()), count(arguments.get(1))).into()
        }
        "count" => arguments.iter().map(|path| size(at(object, path))).sum::<usize>().into(),
        "bool" => (if at(object, argument) == Some(&Value::Bool(true)) { "True" } else { "False" }).into(),
        "flag" => (at(object, argument) == Some(&Value::Bool(true))).into(),
        "containers" => containers(object, "spec.template.spec", argument).into(),
        "cron" if argument == "selector" => selector_text(at(object, "spec.jobTemplate.spec.selector")).into(),
        "cron" => containers(object, "spec.jobTemplate.spec.template.spec", argument).into(),
        "selector" => labels(at(object, argument)).into(),
        "label-selector" => selector_text(at(object, argument)).into(),
        "modes" => modes(at(object, argument)).into(),
        "controller" => controller(object).into(),
        "role" => format!(
            "{}/{}",
            text(object, "roleRef.kind").unwrap_or_default(),
            text(object, "roleRef.name").unwrap_or_default()
        )
        .into(),
        "subjects" => subjects(object, argument).into(),
        "pod" => pod::cell(object, argument, now),
        "service" => service(object, argument).into(),
        "job" => job(object, argument, now),
        "event" => event(object, argument, now),
        "slice" => slice(object, argument).into(),
        "endpoints" => endpoints(object).into(),
        "node" => node(object, argument).into(),
        "quota" => quota(object, argument).into(),
        "ingress" => ingress(object, argument).into(),
        "phase" => {
            let phase = text(object, "status.phase").unwrap_or_default();
            (if at(object, "metadata.deletionTimestamp").is_some() { "Terminating" } else { phase }).into()
        }
        "claim" => at(object, "spec.claimRef")
            .map(|c| format!("{}/{}", text(c, "namespace").unwrap_or_default(), text(c, "name").unwrap_or_default()))
            .unwrap_or_default()
            .into(),
        "pvc" => {
            let bound = text(object, "spec.volumeName").is_some_and(|v| !v.is_empty());
            match argument {
                _ if !bound => "".into(),
                "modes" => modes(at(object, "status.accessModes")).into(),
                _ => text(object, "status.capacity.storage").unwrap_or_default().into(),
            }
        }
        "class" => {
            let default = object.pointer("/metadata/annotations/storageclass.kubernetes.io~1is-default-class");
            let suffix = if default.and_then(Value::as_str) == Some("true") { " (default)" } else { "" };
            format!("{}{suffix}", text(object, "metadata.name").unwrap_or_default()).into()
        }
        _ => Value::Null,
    }
}

/// The value at a dotted path.
pub(super) fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

/// The text at a dotted path.
pub(super) fn text<'v>(value: &'v Value, path: &str) -> Option<&'v str> {
    at(value, path).and_then(Value::as_str)
}

pub(super) fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn size(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}

fn containers(object: &Value, spec: &str, field: &str) -> String {
    let entries = list(object, &format!("{spec}.containers"));
    entries.iter().filter_map(|c| text(c, field)).collect::<Vec<_>>().join(",")
}

fn labels(value: Option<&Value>) -> String {
    let pairs = value.and_then(Value::as_object).filter(|m| !m.is_empty());
    pairs.map_or("<none>".into(), |m| join_labels(m, "=").join(","))
}

fn join_labels(map: &Map<String, Value>, sign: &str) -> Vec<String> {
    map.iter().map(|(k, v)| format!("{k}{sign}{}", v.as_str().unwrap_or_default())).collect()
}

/// A label selector as text; `<none>` when it is empty.
pub(super) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".into() };
    let mut terms: Vec<String> =
        selector.get("matchLabels").and_then(Value::as_object).map(|m| join_labels(m, "=")).unwrap_or_default();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key").unwrap_or_default();
        let values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
        terms.push(match text(expression, "operator") {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if terms.is_empty() { "<none>".into() } else { terms.join(",") }
}

fn modes(value: Option<&Value>) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    value.and_then(Value::as_array).into_iter().flatten().map(short).collect::<Vec<_>>().join(",")
}

fn controller(object: &Value) -> String {
    let owner =
        list(object, "metadata.ownerReferences").iter().find(|o| at(o, "controller") == Some(&Value::Bool(true)));
    owner.map_or("<none>".into(), |owner| {
        let group = text(owner, "apiVersion").and_then(|v| v.split_once('/')).map(|(group, _)| group);
        let kind = text(owner, "kind").unwrap_or_default().to_lowercase();
        let kind = group.map_or(kind.clone(), |group| format!("{kind}.{group}"));
        format!("{kind}/{}", text(owner, "name").unwrap_or_default())
    })
}

fn subjects(object: &Value, kind: &str) -> String {
    let name = |subject: &Value| match kind {
        "ServiceAccount" => {
            format!("{}/{}", text(subject, "namespace").unwrap_or_default(), text(subject, "name").unwrap_or_default())
        }
        _ => text(subject, "name").unwrap_or_default().to_owned(),
    };
    let entries = list(object, "subjects").iter().filter(|s| text(s, "kind") == Some(kind));
    entries.map(name).collect::<Vec<_>>().join(", ")
}

fn service(object: &Value, what: &str) -> String {
    let ty = text(object, "spec.type").unwrap_or_default();
    let addresses = || -> Vec<&str> { list(object, "spec.externalIPs").iter().filter_map(Value::as_str).collect() };
    match what {
        "ip" => text(object, "spec.clusterIP").filter(|ip| !ip.is_empty()).unwrap_or("<none>").to_owned(),
        "ports" => {
            let port = |port: &Value| {
                let number = at(port, "port").and_then(Value::as_i64).unwrap_or(0);
                let node = at(port, "nodePort").and_then(Value::as_i64).filter(|n| *n > 0);
                let protocol = text(port, "protocol").unwrap_or("TCP");
                node.map_or(format!("{number}/{protocol}"), |node| format!("{number}:{node}/{protocol}"))
            };
            let ports: Vec<String> = list(object, "spec.ports").iter().map(port).collect();
            if ports.is_empty() { "<none>".into() } else { ports.join(",") }
        }
        _ => match ty {
            "ExternalName" => text(object, "spec.externalName").unwrap_or_default().to_owned(),
            "LoadBalancer" => {
                let ingress = list(object, "status.loadBalancer.ingress");
                let mut all: Vec<&str> =
                    ingress.iter().filter_map(|i| text(i, "ip").or_else(|| text(i, "hostname"))).collect();
                all.extend(addresses());
                if all.is_empty() { "<pending>".into() } else { all.join(",") }
            }
            _ => {
                let all = addresses();
                if all.is_empty() { "<none>".into() } else { all.join(",") }
            }
        },
    }
}

fn job(object: &Value, what: &str, now: jiff::Timestamp) -> Value {
    let count = |path: &str| at(object, path).and_then(Value::as_i64);
    let is = |ty: &str| {
        let conditions = list(object, "status.conditions");
        conditions.iter().any(|c| text(c, "type") == Some(ty) && text(c, "status") == Some("True"))
    };
    match what {
        "status" => {
            let states = [("Complete", "Complete"), ("Failed", "Failed")];
            let finished = states.iter().find(|(ty, _)| is(ty)).map(|(_, name)| *name);
            let other = if at(object, "metadata.deletionTimestamp").is_some() {
                "Terminating"
            } else if is("Suspended") {
                "Suspended"
            } else if is("FailureTarget") {
                "FailureTarget"
            } else if is("SuccessCriteriaMet") {
                "SuccessCriteriaMet"
            } else {
                "Running"
            };
            finished.unwrap_or(other).into()
        }
        "completions" => {
            let done = count("status.succeeded").unwrap_or(0);
            match (count("spec.completions"), count("spec.parallelism")) {
                (Some(wanted), _) => format!("{done}/{wanted}").into(),
                (None, Some(parallel)) if parallel > 1 => format!("{done}/1 of {parallel}").into(),
                _ => format!("{done}/1").into(),
            }
        }
        _ => {
            let seconds = |path: &str| {
                text(object, path).and_then(|t| t.parse::<jiff::Timestamp>().ok()).map(jiff::Timestamp::as_second)
            };
            let end = seconds("status.completionTime").unwrap_or(now.as_second());
            seconds("status.startTime").map_or(String::new(), |start| duration(end - start)).into()
        }
    }
}

fn event(object: &Value, what: &str, now: jiff::Timestamp) -> Value {
    let first =
        |paths: &[&str]| paths.iter().find_map(|p| text(object, p).filter(|t| !t.is_empty())).map(str::to_owned);
    let number = |paths: &[&str]| paths.iter().find_map(|p| at(object, p).and_then(Value::as_i64));
    let about = at(object, "involvedObject").or_else(|| at(object, "regarding")).cloned().unwrap_or_default();
    match what {
        "first" => {
            let time = first(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]);
            age(time.as_deref(), now).into()
        }
        "last" => {
            let time = first(&["series.lastObservedTime", "lastTimestamp", "deprecatedLastTimestamp", "eventTime"]);
            age(time.as_deref(), now).into()
        }
        "count" => number(&["series.count", "count", "deprecatedCount"]).unwrap_or(1).into(),
        "message" => first(&["message", "note"]).unwrap_or_default().trim().to_owned().into(),
        "subobject" => text(&about, "fieldPath").unwrap_or_default().into(),
        "object" => format!(
            "{}/{}",
            text(&about, "kind").unwrap_or_default().to_lowercase(),
            text(&about, "name").unwrap_or_default()
        )
        .into(),
        _ => {
            let component =
                first(&["source.component", "deprecatedSource.component", "reportingComponent", "reportingController"]);
            let host = first(&["source.host", "deprecatedSource.host", "reportingInstance"]);
            let parts: Vec<String> = [component, host].into_iter().flatten().collect();
            parts.join(", ").into()
        }
    }
}

fn slice(object: &Value, what: &str) -> String {
    let (entries, more): (Vec<String>, usize) = if what == "ports" {
        let ports = list(object, "ports");
        let name = |p: &Value| at(p, "port").and_then(Value::as_i64).map_or("*".into(), |n| n.to_string());
        (ports.iter().take(3).map(name).collect(), ports.len().saturating_sub(3))
    } else {
        let all: Vec<&str> =
            list(object, "endpoints").iter().flat_map(|e| list(e, "addresses")).filter_map(Value::as_str).collect();
        (all.iter().take(3).map(ToString::to_string).collect(), all.len().saturating_sub(3))
    };
    match (entries.is_empty(), more) {
        (true, _) => "<unset>".into(),
        (false, 0) => entries.join(","),
        (false, more) => format!("{} + {more} more...", entries.join(",")),
    }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        for address in list(subset, "addresses").iter().filter_map(|a| text(a, "ip")) {
            let ports: Vec<String> = list(subset, "ports")
                .iter()
                .filter_map(|p| at(p, "port")?.as_i64())
                .map(|p| format!("{address}:{p}"))
                .collect();
            all.extend(if ports.is_empty() { vec![address.to_owned()] } else { ports });
        }
    }
    match all.len() {
        0 => "<none>".into(),
        1..=3 => all.join(","),
        count => format!("{} + {} more...", all[..3].join(","), count - 3),
    }
}

fn node(object: &Value, what: &str) -> String {
    match what {
        "status" => {
            let ready = list(object, "status.conditions").iter().find(|c| text(c, "type") == Some("Ready"));
            let mut status = match ready.and_then(|c| text(c, "status")) {
                Some("True") => "Ready".to_owned(),
                Some(_) => "NotReady".to_owned(),
                None => "Unknown".to_owned(),
            };
            if at(object, "spec.unschedulable") == Some(&Value::Bool(true)) {
                status.push_str(",SchedulingDisabled");
            }
            status
        }
        "roles" => {
            let labels = at(object, "metadata.labels").and_then(Value::as_object).cloned().unwrap_or_default();
            let role = |(key, value): (&String, &Value)| {
                let own = key.strip_prefix("node-role.kubernetes.io/").map(str::to_owned);
                own.or_else(|| (key == "kubernetes.io/role").then(|| value.as_str().unwrap_or_default().to_owned()))
                    .filter(|r| !r.is_empty())
            };
            let mut roles: Vec<String> = labels.iter().filter_map(role).collect();
            roles.sort();
            if roles.is_empty() { "<none>".into() } else { roles.join(",") }
        }
        "kernel" => {
            let version =
                text(object, "status.nodeInfo.kernelVersion").filter(|v| !v.is_empty()).unwrap_or("<unknown>");
            match text(object, "status.nodeInfo.architecture").filter(|a| !a.is_empty()) {
                Some(architecture) => format!("{version} ({architecture})"),
                None => version.to_owned(),
            }
        }
        ty => {
            let address = list(object, "status.addresses").iter().find(|a| text(a, "type") == Some(ty));
            address.and_then(|a| text(a, "address")).unwrap_or("<none>").to_owned()
        }
    }
}

fn quota(object: &Value, what: &str) -> String {
    let hard = at(object, "status.hard").and_then(Value::as_object).cloned().unwrap_or_default();
    let used = |name: &str| {
        object
            .pointer(&format!("/status/used/{}", name.replace('/', "~1")))
            .and_then(Value::as_str)
            .unwrap_or("0")
            .to_owned()
    };
    let entries = hard.iter().filter(|(name, _)| name.starts_with("limits") == (what == "limits"));
    entries
        .map(|(name, limit)| format!("{name}: {}/{}", used(name), limit.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn ingress(object: &Value, what: &str) -> String {
    match what {
        "hosts" => {
            let hosts: Vec<&str> = list(object, "spec.rules").iter().filter_map(|r| text(r, "host")).collect();
            if hosts.is_empty() { "*".into() } else { hosts.join(",") }
        }
        "ports" => (if list(object, "spec.tls").is_empty() { "80" } else { "80, 443" }).to_owned(),
        _ => {
            let entries = list(object, "status.loadBalancer.ingress");
            entries.iter().filter_map(|i| text(i, "ip").or_else(|| text(i, "hostname"))).collect::<Vec<_>>().join(",")
        }
    }
}
