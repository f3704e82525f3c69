//! The fault switches, against a whole sandbox with real processes, packets and file systems.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use sandbox::faults::{ApiAct, Fault, NodeAct, Peer, PodAct, VolumeAct, drain};
use serde_json::{Value, json};

use crate::pods::able;
use crate::world::{LIMIT, World, address, from, is, reaches, restarts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stop_and_are_cut_off() {
    if !able("nodes_stop_and_are_cut_off") {
        return;
    }
    let world = World::new("nodes").await;
    let service =
        json!({ "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } });
    let services: Api<k8s_openapi::api::core::v1::Service> = Api::default_namespaced(world.client());
    services.create(&PostParams::default(), &from(service)).await.expect("service");
    world.pod("a", "node-1", json!({})).await;
    world.pod("b", "node-2", json!({ "tolerated": 3600 })).await;
    let (a, b) = (world.ready("a").await, world.ready("b").await);
    assert!(reaches(address(&a)).await);

    // Cut off: it runs on and passes its probes, but nobody hears of it.
    world.node("node-1", NodeAct::Cut(None)).await;
    assert!(!reaches(address(&a)).await && reaches(address(&b)).await);
    world.node_is("node-1", "Unknown").await;
    let pod = world.until("a", "not ready", |p| is(p, "Ready", "False")).await;
    assert_eq!(restarts(&pod), 0, "a node that is cut off still probes its pods");
    let slices: Api<EndpointSlice> = Api::default_namespaced(world.client());
    let deadline = Instant::now() + LIMIT;
    loop {
        let ready: BTreeMap<String, bool> = slices
            .list(&kube::api::ListParams::default().labels("kubernetes.io/service-name=web"))
            .await
            .expect("slices")
            .iter()
            .flat_map(|s| s.endpoints.clone().unwrap_or_default())
            .map(|e| (e.addresses[0].clone(), e.conditions.and_then(|c| c.ready).unwrap_or(true)))
            .collect();
        if ready.get(&address(&a).to_string()) == Some(&false) && ready.get(&address(&b).to_string()) == Some(&true) {
            break;
        }
        assert!(Instant::now() < deadline, "{ready:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Evicted, but its node does not hear of it.
    world.until("a", "evicted", |p| !p["metadata"]["deletionTimestamp"].is_null()).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.until("a", "still there", |p| !p.is_null()).await;
    world.node("node-1", NodeAct::Heal).await;
    world.until("a", "gone once its node hears of it", Value::is_null).await;
    world.node_is("node-1", "True").await;

    // Cut off from the API only: pods go on serving. Healed in time: the pod stays, and is ready again.
    world.node("node-2", NodeAct::Cut(Some(Peer::Api))).await;
    world.until("b", "not ready", |p| is(p, "Ready", "False")).await;
    assert!(reaches(address(&b)).await);
    world.node("node-2", NodeAct::Heal).await;
    let pod = world.ready("b").await;
    assert_eq!((restarts(&pod), address(&pod)), (0, address(&b)));

    // Without power. A force deletion removes the object; a pod that stays starts anew with its node.
    world.node("node-2", NodeAct::Stop).await;
    assert!(!reaches(address(&b)).await);
    assert_eq!(world.node("node-2", NodeAct::Stop).await, "node node-2 is stopped already");
    world.node_is("node-2", "Unknown").await;
    world.node("node-2", NodeAct::Start).await;
    world.node_is("node-2", "True").await;
    let pod = world.until("b", "restarted", |p| restarts(p) == 1 && is(p, "Ready", "True")).await;
    assert_ne!(address(&pod), address(&b));
    world.node("node-2", NodeAct::Stop).await;
    world.pods().delete("b", &DeleteParams::default().grace_period(0)).await.expect("by force");
    world.until("b", "gone", Value::is_null).await;
    world.node("node-2", NodeAct::Start).await;
    world.node_is("node-2", "True").await;

    let wrong = |act| Fault::Node { name: "node-7".into(), act };
    assert_eq!(
        world.refused(wrong(NodeAct::Stop)).await,
        "no node is called \"node-7\": there are node-1, node-2, node-3"
    );
    let cut = |peer| Fault::Node { name: "node-1".into(), act: NodeAct::Cut(Some(peer)) };
    assert!(world.refused(cut(Peer::Node("x".into()))).await.contains("no node is called \"x\""));
    assert!(world.refused(cut(Peer::Node("node-1".into()))).await.contains("cannot be cut off from itself"));
    assert!(world.refused(cut(Peer::parse("pod/x", "default"))).await.contains("pod \"x\" not found"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_freeze_and_die() {
    if !able("processes_freeze_and_die") {
        return;
    }
    let world = World::new("processes").await;
    // A number that no other process of this machine sleeps for.
    let sleep = format!("sleep 1{:07}", std::process::id());
    let script = format!("{sleep} & while :; do wait; done");
    let pod = json!({
        "metadata": { "name": "p" },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [
            { "name": "main", "image": "debian:13", "command": ["sh", "-c", script] },
        ] },
    });
    world.pods().create(&PostParams::default(), &from(pod)).await.expect("create");
    world.ready("p").await;
    let states = || {
        let mut found: Vec<(String, char)> = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
            let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let command = read("cmdline").replace('\0', " ");
            if command.starts_with(&sleep) || command.starts_with(&format!("sh -c {sleep}")) {
                let stat = read("stat");
                let state = stat.rsplit(')').next().and_then(|s| s.trim().chars().next());
                found.push((command.chars().take(5).collect(), state.unwrap_or('?')));
            }
        }
        found.sort();
        found
    };
    let is = |shell: char, sleep: char| vec![("sh -c".to_owned(), shell), ("sleep".to_owned(), sleep)];
    let settle = async |wanted: Vec<(String, char)>| {
        let deadline = Instant::now() + LIMIT;
        while states() != wanted {
            assert!(Instant::now() < deadline, "{:?}, not {wanted:?}", states());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    settle(is('S', 'S')).await;
    assert_eq!(world.process("p", None, PodAct::Freeze).await, "pod p: all processes of main frozen");
    settle(is('T', 'T')).await;
    world.process("p", Some("sleep"), PodAct::Thaw).await;
    settle(is('T', 'S')).await;
    world.process("p", None, PodAct::Thaw).await;
    settle(is('S', 'S')).await;
    world.process("p", None, PodAct::Kill).await;
    let last = |p: &Value| p["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
    let pod = world.until("p", "restarted", |p| restarts(p) == 1).await;
    assert_eq!((last(&pod)["exitCode"].clone(), last(&pod)["reason"].clone()), (json!(137), json!("Error")));
    world.process("p", None, PodAct::Oom).await;
    let pod = world.until("p", "restarted again", |p| restarts(p) == 2).await;
    assert_eq!((last(&pod)["exitCode"].clone(), last(&pod)["reason"].clone()), (json!(137), json!("OOMKilled")));

    settle(is('S', 'S')).await;
    let fault = |name: &str, container: Option<&str>, process: Option<&str>| Fault::Pod {
        namespace: "default".into(),
        name: name.into(),
        container: container.map(str::to_owned),
        process: process.map(str::to_owned),
        act: PodAct::Kill,
    };
    assert_eq!(world.refused(fault("x", None, None)).await, "pod \"x\" not found in namespace \"default\"");
    assert_eq!(
        world.refused(fault("p", Some("x"), None)).await,
        "pod p: no container called \"x\" runs: there are main"
    );
    assert_eq!(
        world.refused(fault("p", None, Some("x"))).await,
        "pod p: no process is called \"x\": there are sh, sleep"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_fill_and_hang() {
    if !able("disks_fill_and_hang") {
        return;
    }
    let world = World::new("disks").await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(world.client());
    for (name, class) in [("own", "limited"), ("folder", "standard")] {
        let claim = json!({ "metadata": { "name": name }, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": { "requests": { "storage": "32Mi" } },
        } });
        claims.create(&PostParams::default(), &from(claim)).await.expect("claim");
        let volumes = json!({
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": name } }],
            "mounts": [{ "name": "v", "mountPath": "/v" }],
        });
        world.pod(name, "node-1", volumes).await;
    }
    world.ready("own").await;
    world.ready("folder").await;
    let volume = claims.get("own").await.expect("claim").spec.and_then(|s| s.volume_name).expect("a volume");
    let folder = world.paths.volumes().join(volume);
    let write = |name: &'static str| {
        let file = folder.join(name);
        std::thread::spawn(move || std::fs::write(file, vec![1; 65536]))
    };
    let wait = async |thread: std::thread::JoinHandle<std::io::Result<()>>| {
        tokio::task::spawn_blocking(move || thread.join().expect("thread")).await.expect("thread")
    };
    wait(write("before")).await.expect("room");
    let file = folder.join("large");
    let large = std::thread::spawn(move || {
        std::fs::write(&file, vec![1; 40 << 20]).inspect_err(|_| drop(std::fs::remove_file(&file)))
    });
    let error = wait(large).await.expect_err("larger than the volume");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    world.volume("own", VolumeAct::Fill { leave: 0 }).await;
    let error = wait(write("full")).await.expect_err("full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    world.volume("own", VolumeAct::Free).await;
    wait(write("after")).await.expect("room again");

    world.volume("own", VolumeAct::Hang).await;
    let waits = write("hangs");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished());
    assert_eq!(std::fs::read(folder.join("after")).expect("reads go on").len(), 65536);
    // A pod cannot start on it, and says why.
    let volumes = json!({
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "own" } }],
        "mounts": [{ "name": "v", "mountPath": "/v" }],
    });
    world.pod("late", "node-1", volumes).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.until("late", "waits", |p| p["status"]["phase"] == "Pending").await;
    world.volume("own", VolumeAct::Release).await;
    wait(waits).await.expect("written at last");
    world.ready("late").await;

    let fault = |claim: &str| Fault::Volume { namespace: "default".into(), claim: claim.into(), act: VolumeAct::Hang };
    assert!(world.refused(fault("folder")).await.contains("Use the storage class limited"));
    assert_eq!(world.refused(fault("x")).await, "claim \"x\" not found in namespace \"default\"");
    // The end must come also while a disk hangs.
    world.volume("own", VolumeAct::Hang).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_slow_and_away() {
    if !able("the_api_is_slow_and_away") {
        return;
    }
    let world = World::new("api").await;
    let inside = IpAddr::from(world.settings().addresses().api());
    let connects = async || {
        let attempt = move || TcpStream::connect_timeout(&(inside, 443).into(), Duration::from_secs(1));
        tokio::task::spawn_blocking(attempt).await.expect("thread")
    };
    let mut open = connects().await.expect("the API listens");
    let away = |time| Fault::Api { act: ApiAct::Away, for_milliseconds: time };
    world.throw(away(None)).await;
    assert_eq!(connects().await.expect_err("refused").kind(), std::io::ErrorKind::ConnectionRefused);
    open.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
    let mut byte = [0];
    assert!(matches!(std::io::Read::read(&mut open, &mut byte), Ok(0) | Err(_)), "connections end");
    // Nodes are not blamed for it.
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.node_is("node-1", "True").await;
    world.throw(Fault::Api { act: ApiAct::Back, for_milliseconds: None }).await;
    let deadline = Instant::now() + LIMIT;
    while connects().await.is_err() {
        assert!(Instant::now() < deadline, "the API does not come back");
    }
    world.throw(away(Some(300))).await;
    assert!(connects().await.is_err());
    while connects().await.is_err() {
        assert!(Instant::now() < deadline, "the API does not come back by itself");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drains_honour_budgets() {
    if !able("drains_honour_budgets") {
        return;
    }
    let world = World::new("drain").await;
    world.pod("a", "node-1", json!({})).await;
    world.ready("a").await;
    let budgets: Api<k8s_openapi::api::policy::v1::PodDisruptionBudget> = Api::default_namespaced(world.client());
    let budget = json!({ "metadata": { "name": "web" }, "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } } });
    budgets.create(&PostParams::default(), &from(budget)).await.expect("budget");
    let client = world.client();
    let healthy = async |pods| {
        let deadline = Instant::now() + LIMIT;
        while budgets.get("web").await.expect("budget").status.is_none_or(|s| s.current_healthy != Some(pods)) {
            assert!(Instant::now() < deadline, "the budget does not count {pods}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    healthy(1).await;
    let late = drain::drain(&client, "node-1", Duration::from_secs(1), |_| ()).await.expect_err("refused").to_string();
    assert!(late.contains("default/a"), "{late}");
    world.until("a", "untouched", |p| p["metadata"]["deletionTimestamp"].is_null() && is(p, "Ready", "True")).await;
    world.pod("b", "node-2", json!({})).await;
    world.ready("b").await;
    healthy(2).await;
    let mut said = Vec::new();
    drain::drain(&client, "node-1", LIMIT, |line| said.push(line.to_owned())).await.expect("drained");
    assert_eq!(said, ["node node-1 cordoned", "pod default/a evicted", "node node-1 drained"]);
    let node = Api::<Node>::all(client.clone()).get("node-1").await.expect("node");
    assert_eq!(node.spec.and_then(|s| s.unschedulable), Some(true), "{}", node.metadata.name.unwrap_or_default());
    assert!(drain::drain(&client, "node-9", LIMIT, |_| ()).await.is_err());
    world.end().await;
}
