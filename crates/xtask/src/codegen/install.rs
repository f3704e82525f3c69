//! `deploy/install.yaml` behind the CRDs: namespace, account, rights with their reasons, Deployment.

use std::fmt::Write as _;

/// A rule of the operator's ClusterRole, and why it needs it.
struct Rule {
    why: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const APPLY: &[&str] = &["get", "list", "watch", "create", "patch", "update", "delete"];

/// Rights in every namespace: MariaDB objects may be anywhere.
const RULES: &[Rule] = &[
    Rule {
        why: "read what users declare; the operator never writes their spec",
        group: "k8s.mariadb.com",
        resources: &["mariadbs"],
        verbs: READ,
    },
    Rule {
        why: "say how things are: status, and owner references that block a foreground deletion",
        group: "k8s.mariadb.com",
        resources: &["mariadbs/status", "mariadbs/finalizers"],
        verbs: &["get", "patch", "update"],
    },
    Rule {
        why: "tell what was done when the primary changed, and forget all but the last 50 of a topology",
        group: "k8s.mariadb.com",
        resources: &["primarychanges"],
        verbs: &["get", "list", "watch", "create", "delete"],
    },
    Rule {
        why: "the members' StatefulSets: applied, deleted without their pods and made again when volumes grow",
        group: "apps",
        resources: &["statefulsets"],
        verbs: APPLY,
    },
    Rule {
        why: "what members are found by, configured with and log in as; generated passwords and certificates",
        group: "",
        resources: &["services", "configmaps", "secrets", "serviceaccounts"],
        verbs: APPLY,
    },
    Rule {
        why: "members are watched, labelled with their role, and restarted by deletion one at a time",
        group: "",
        resources: &["pods"],
        verbs: &["get", "list", "watch", "patch", "delete"],
    },
    Rule {
        why: "volumes grow when the spec's size grows; deleted only when the spec's retention policy says so",
        group: "",
        resources: &["persistentvolumeclaims"],
        verbs: &["get", "list", "watch", "patch", "update", "delete"],
    },
    Rule { why: "whether a lost member's node is gone", group: "", resources: &["nodes"], verbs: READ },
    Rule { why: "whether a volume can grow", group: "storage.k8s.io", resources: &["storageclasses"], verbs: READ },
    Rule {
        why: "the agents' rights to their topology's Lease; to grant them the operator must hold them (see leases)",
        group: "rbac.authorization.k8s.io",
        resources: &["roles", "rolebindings"],
        verbs: APPLY,
    },
    Rule {
        why: "the record of each topology, and the operator's own leader election",
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: APPLY,
    },
    Rule {
        why: "at most one member of a topology down at a time",
        group: "policy",
        resources: &["poddisruptionbudgets"],
        verbs: APPLY,
    },
    Rule {
        why: "tell people what was done and why",
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch", "update"],
    },
    Rule {
        why: "the same, where tools read the older kind",
        group: "",
        resources: &["events"],
        verbs: &["create", "patch", "update"],
    },
];

fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The documents, each but the first begun with `---`.
pub(super) fn manifests() -> String {
    let mut rules = String::new();
    for rule in RULES {
        let _ = write!(
            rules,
            "  # {}\n  - apiGroups: [{:?}]\n    resources: {}\n    verbs: {}\n",
            rule.why,
            rule.group,
            list(rule.resources),
            list(rule.verbs)
        );
    }
    TEMPLATE.replace("RULES\n", &rules).replace("VERSION", env!("CARGO_PKG_VERSION"))
}

const TEMPLATE: &str = r#"apiVersion: v1
kind: Namespace
metadata:
  name: mariadb-operator
  labels:
    pod-security.kubernetes.io/enforce: restricted
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: mariadb-operator
  namespace: mariadb-operator
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: mariadb-operator
rules:
RULES
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: mariadb-operator
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: mariadb-operator
subjects:
  - kind: ServiceAccount
    name: mariadb-operator
    namespace: mariadb-operator
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: mariadb-operator
  namespace: mariadb-operator
  labels:
    app.kubernetes.io/name: mariadb-operator
spec:
  replicas: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: mariadb-operator
  template:
    metadata:
      labels:
        app.kubernetes.io/name: mariadb-operator
    spec:
      serviceAccountName: mariadb-operator
      # Moved off a lost node soon: a database there may need a decision.
      tolerations:
        - key: node.kubernetes.io/not-ready
          operator: Exists
          effect: NoExecute
          tolerationSeconds: 10
        - key: node.kubernetes.io/unreachable
          operator: Exists
          effect: NoExecute
          tolerationSeconds: 10
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: operator
          image: mariadb-operator:VERSION
          imagePullPolicy: IfNotPresent
          args: ["controller"]
          env:
            # The image that members' pods copy the agent from.
            - name: OPERATOR_IMAGE
              value: mariadb-operator:VERSION
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
            - name: POD_UID
              valueFrom:
                fieldRef:
                  fieldPath: metadata.uid
          ports:
            - name: health
              containerPort: 8081
            - name: metrics
              containerPort: 8080
          livenessProbe:
            httpGet:
              path: /healthz
              port: health
            periodSeconds: 10
          readinessProbe:
            httpGet:
              path: /readyz
              port: health
            periodSeconds: 2
          resources:
            requests:
              cpu: 50m
              memory: 64Mi
            limits:
              memory: 256Mi
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: ["ALL"]
"#;
