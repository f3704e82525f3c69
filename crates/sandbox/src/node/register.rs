//! The objects that make a cluster look like one: nodes with their heartbeats, storage classes, the DNS service.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::quantity;
use crate::settings::Addresses;

/// Who provisions the sandbox's volumes.
pub const PROVISIONER: &str = "sandbox.k8s.mariadb.com/local";

/// The storage class whose volumes have file systems of their own: full when their size is used up.
pub const LIMITED: &str = "limited";

/// Names and addresses of the virtual nodes.
pub fn nodes(addresses: Addresses, count: usize) -> BTreeMap<String, Ipv4Addr> {
    (0..count).map(|i| (format!("node-{}", i + 1), addresses.node(i))).collect()
}

pub(super) fn apply() -> PatchParams {
    PatchParams::apply("sandbox").force()
}

/// Writes all of these objects.
pub async fn register(client: &Client, addresses: Addresses, count: usize) -> Result<(), kube::Error> {
    let nodes = nodes(addresses, count);
    let api: Api<Node> = Api::all(client.clone());
    for (name, address) in &nodes {
        api.patch(name, &apply(), &Patch::Apply(node(name))).await?;
        let status = json!({ "apiVersion": "v1", "kind": "Node", "status": node_status(name, *address) });
        api.patch_status(name, &apply(), &Patch::Apply(status)).await?;
    }
    let classes: Api<StorageClass> = Api::all(client.clone());
    for (name, is_default) in [("standard", true), ("fast-ssd", false), ("regional-ssd", false)] {
        classes.patch(name, &apply(), &Patch::Apply(storage_class(name, is_default))).await?;
    }
    let mut limited = storage_class(LIMITED, false);
    limited["parameters"] = json!({ "enforceSize": "true" });
    classes.patch(LIMITED, &apply(), &Patch::Apply(limited)).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    services.patch("kube-dns", &apply(), &Patch::Apply(dns_service(addresses))).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    services.patch("kubernetes", &apply(), &Patch::Apply(api_service(addresses))).await?;
    Ok(())
}

fn node(name: &str) -> Value {
    let number: usize = name.trim_start_matches("node-").parse().unwrap_or(1);
    // Nodes are spread over two zones, so that rules about zones have something to choose from.
    let zone = if number % 2 == 1 { "zone-a" } else { "zone-b" };
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
                "topology.kubernetes.io/zone": zone,
                "topology.kubernetes.io/region": "sandbox",
                "node-role.kubernetes.io/worker": "",
            },
        },
    })
}

pub(super) fn node_status(name: &str, address: Ipv4Addr) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({ "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": now })
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let resources = json!({ "cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110" });
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            { "type": "InternalIP", "address": address },
            { "type": "Hostname", "address": name },
        ],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "virtual node of the sandbox; the machine's processors and memory are shared by all nodes"),
        ],
        "nodeInfo": {
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "bootID": "", "containerRuntimeVersion": "runc://sandbox", "kernelVersion": kernel.trim(),
            "kubeProxyVersion": "", "kubeletVersion": "v1.36.0-sandbox", "machineID": machine.trim(),
            "operatingSystem": "linux", "osImage": format!("sandbox ({} MiB)", quantity::machine_memory() >> 20),
            "systemUUID": "",
        },
    })
}

fn storage_class(name: &str, is_default: bool) -> Value {
    let mut class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": name },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    });
    if is_default {
        class["metadata"]["annotations"] = json!({ "storageclass.kubernetes.io/is-default-class": "true" });
    }
    class
}

fn api_service(addresses: Addresses) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "clusterIP": addresses.api(),
            "clusterIPs": [addresses.api()],
            "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": 443 }],
        },
    })
}

fn dns_service(addresses: Addresses) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": { "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS" },
        },
        "spec": {
            "clusterIP": addresses.dns(),
            "clusterIPs": [addresses.dns()],
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
            ],
        },
    })
}
