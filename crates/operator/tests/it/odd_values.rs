//! Values that the cluster's schema lets through and that mean nothing: named, and nobody else's trouble.

use api::{MariaDB, resolve};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{object, replicated};

/// Values that come near what fields may hold, on either side.
fn odd() -> Vec<Value> {
    let replication = |fields: Value| {
        let mut fields = fields;
        fields["enabled"] = json!(true);
        json!({"replication": fields})
    };
    let numbers = [
        json!(-1),
        json!(0),
        json!(1),
        json!(2_147_483_648_u64),
        json!(4_294_967_296_u64),
        json!(i64::MAX),
        json!(1.5),
        json!("1"),
    ];
    let durations = [
        json!("-5s"),
        json!(-5),
        json!("999999999h"),
        json!("5 s"),
        json!(""),
        json!(i64::MAX),
        json!("1.5m"),
        json!("1e3s"),
    ];
    let sizes = [
        json!(0),
        json!("0"),
        json!("0.0Gi"),
        json!("-5Gi"),
        json!(-1),
        json!("1e3.5"),
        json!("1e99"),
        json!("5 Gi"),
        json!(".5Gi"),
        json!("1K"),
        json!(i64::MAX),
    ];
    let mut all = Vec::new();
    for n in &numbers {
        all.extend([
            json!({"port": n}),
            json!({"replicas": n}),
            json!({"terminationGracePeriodSeconds": n}),
            json!({"podDisruptionBudget": {"minAvailable": n}}),
            json!({"readinessProbe": {"periodSeconds": n, "httpGet": {"port": n}}}),
            json!({"resources": {"limits": {"memory": n}}}),
            replication(json!({"primary": {"podIndex": n}})),
            replication(json!({"failover": {"retries": n}})),
            replication(json!({"syncBinlog": n})),
            replication(json!({"gtid": {"domainId": n}})),
            replication(json!({"gtidDomainId": n})),
            replication(json!({"serverIdStartIndex": n})),
            replication(json!({"replica": {"connectionRetries": n, "connectionRetrySeconds": n}})),
            replication(json!({"replica": {"maxLagSeconds": n}})),
            replication(json!({"replica": {"parallelThreads": n}})),
        ]);
    }
    for d in &durations {
        all.extend([
            replication(json!({"failover": {"timeout": d}})),
            replication(json!({"replica": {"delay": d}})),
            replication(json!({"replica": {"maxDelay": d}})),
            json!({"metrics": {"serviceMonitor": {"interval": d}}}),
        ]);
    }
    for size in &sizes {
        all.push(json!({"storage": {"size": size}}));
        all.push(json!({"storage": {"volumeClaimTemplate": {"resources": {"requests": {"storage": size}}}}}));
        all.push(json!({"volumes": [{"name": "x", "emptyDir": {"sizeLimit": size}}]}));
    }
    for word in ["", "strict", "Strict", "none"] {
        all.push(replication(json!({"durability": word})));
        all.push(replication(json!({"replica": {"parallelMode": word}})));
        all.push(json!({"imagePullPolicy": word}));
    }
    all
}

#[tokio::test]
async fn what_the_cluster_takes_can_be_read_and_is_right_or_named() {
    let cluster = Cluster::start("default").await;
    let mut taken = 0;
    for (n, spec) in odd().into_iter().enumerate() {
        let name = format!("odd-{n}");
        if cluster.try_apply(&object(&name, spec.clone())).await.is_err() {
            continue;
        }
        taken += 1;
        let found: MariaDB = cluster.api().get(&name).await.unwrap_or_else(|error| panic!("{spec}: {error}"));
        if let Err(mistakes) = resolve(&found) {
            assert!(mistakes.iter().all(|mistake| mistake.path.starts_with("spec.")), "{spec}: {mistakes:?}");
        }
    }
    assert!(taken > 40, "{taken}");
    let all = cluster.api::<MariaDB>().list(&kube::api::ListParams::default()).await.expect("a list");
    assert!(all.iter().all(|object| object.name_any().starts_with("odd-")) && all.items.len() == taken);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_so_and_others_go_on() {
    let cluster = Cluster::start("default").await;
    cluster.apply(&replicated("before", 1)).await;
    cluster.get::<StatefulSet>("before").await;
    let spec = json!({"storage": {"size": "1e99"},
        "replication": {"enabled": true, "failover": {"timeout": "999999999h"}},
        "readinessProbe": {"httpGet": {"port": 5_000_000_000_i64}}});
    cluster.apply(&object("odd", spec)).await;
    for path in ["spec.replication.failover.timeout: not a duration", "spec.readinessProbe.httpGet.port"] {
        cluster.condition("odd", "ConfigValid", "False", path).await;
    }
    assert!(cluster.absent::<StatefulSet>("odd").await);
    cluster.apply(&replicated("after", 1)).await;
    cluster.get::<StatefulSet>("after").await;
    let scale = kube::api::Patch::Merge(json!({"spec": {"replicas": 2}}));
    cluster.api::<MariaDB>().patch_scale("before", &kube::api::PatchParams::default(), &scale).await.expect("scaled");
    cluster.until("2 replicas", async || cluster.get::<StatefulSet>("before").await.spec.replicas == Some(2)).await;
}
