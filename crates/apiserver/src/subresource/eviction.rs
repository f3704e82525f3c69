//! Evictions: deletions that a `PodDisruptionBudget` can refuse.

use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use super::delete_evicted;
use crate::http::{Context, DeleteOptions, body, dry_run, json_response};
use crate::selector::Labels;
use crate::status::ApiError;
use crate::store::StoreError;

/// POST of `pods/{name}/eviction`.
pub(super) fn evict(context: &Context, bytes: &Bytes) -> Result<Response, ApiError> {
    let eviction = body::parse_json(bytes).map_err(ApiError::bad_request)?;
    if let Some(name) = eviction["metadata"]["name"].as_str().filter(|n| !n.is_empty() && *n != context.name()) {
        return Err(ApiError::bad_request(format!("name in URL does not match name in Eviction object: {name}")));
    }
    let mut options = DeleteOptions::of(&eviction["deleteOptions"])?;
    let values: Vec<&str> = context.query.all("dryRun").collect();
    options.dry_run |= dry_run(&values, "CreateOptions")?;
    let pod = context.present(&*context.stored()?);
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let free =
        matches!(phase, "Succeeded" | "Failed" | "Pending") || pod["metadata"].get("deletionTimestamp").is_some();
    if !free {
        spend(context, &pod, options.dry_run)?;
    }
    delete_evicted(context, &options)?;
    Ok(json_response(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

fn ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Takes one disruption from the pod's budget, or refuses.
fn spend(context: &Context, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
    let resource = ("policy".to_owned(), "poddisruptionbudgets".to_owned());
    let store = context.server.store();
    loop {
        let budgets: Vec<_> = store
            .list(&resource, Some(context.namespace()))
            .1
            .into_iter()
            .map(|o| (o.clone(), o.value()))
            .filter(|(_, budget)| {
                Labels::from_object(&budget["spec"]["selector"]).is_some_and(|s| s.matches(&pod["metadata"]["labels"]))
            })
            .collect();
        let (object, mut budget) = match budgets.len() {
            0 => return Ok(()),
            1 => budgets.into_iter().next().unwrap_or_else(|| unreachable!("one was counted")),
            _ => {
                let message =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::internal(message)).map_err(|mut e: ApiError| {
                    message.clone_into(&mut e.message);
                    e
                });
            }
        };
        let status = budget["status"].clone();
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        if !ready(pod) {
            let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
            if always || number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0 {
                return Ok(());
            }
        }
        let name = object.name.clone();
        let too_many = |cause: String, wait: bool| {
            let details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
            let mut details = details;
            if wait {
                details["retryAfterSeconds"] = 10.into();
            }
            ApiError::new(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
                .with(details)
        };
        let observed = status["observedGeneration"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
            return Err(too_many(
                format!("The disruption budget {name} is still being processed by the server."),
                true,
            ));
        }
        let allowed = number("disruptionsAllowed");
        if allowed <= 0 {
            let cause = format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            );
            return Err(too_many(cause, false));
        }
        if dry_run {
            return Ok(());
        }
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        if !budget["status"]["disruptedPods"].is_object() {
            budget["status"]["disruptedPods"] = json!({});
        }
        budget["status"]["disruptedPods"][context.name()] = crate::gc::now().into();
        match store.put(&resource, budget, object.revision) {
            Ok(_) => return Ok(()),
            Err(StoreError::Clash) => {}
            Err(other) => return Err(ApiError::internal(other)),
        }
    }
}
