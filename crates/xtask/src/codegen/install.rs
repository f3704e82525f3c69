//! `deploy/install.yaml` behind the CRDs: namespace, account, rights with their reasons, Deployment.

use std::fmt::Write as _;

/// A verb, and what it is for.
type Verb = (&'static str, &'static str);

/// A rule of the operator's ClusterRole, and why it needs it.
struct Rule {
    why: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [Verb],
}

const LIST: Verb = ("list", "filled into a cache at start");
const WATCH: Verb = ("watch", "a change is acted on at once, and nothing is asked twice");
const CACHED: &[Verb] = &[LIST, WATCH];
/// What server-side apply of children takes.
const APPLY: &[Verb] = &[
    ("get", "whose object has that name is read before it is touched"),
    LIST,
    WATCH,
    ("create", "applied where there is none"),
    ("patch", "server-side apply"),
    ("delete", "what the spec no longer asks for is removed"),
];

/// Rights in every namespace: MariaDB objects may be anywhere.
const RULES: &[Rule] = &[
    Rule {
        why: "read what users declare; the operator never writes their spec",
        group: "k8s.mariadb.com",
        resources: &["mariadbs"],
        verbs: CACHED,
    },
    Rule {
        why: "say how things are",
        group: "k8s.mariadb.com",
        resources: &["mariadbs/status"],
        verbs: &[("patch", "server-side apply, one field manager for each loop")],
    },
    Rule {
        why: "children name their MariaDB as owner, and hold up its foreground deletion",
        group: "k8s.mariadb.com",
        resources: &["mariadbs/finalizers"],
        verbs: &[("update", "asked for by the admission plugin OwnerReferencesPermissionEnforcement")],
    },
    Rule {
        why: "tell what was done when the primary changed",
        group: "k8s.mariadb.com",
        resources: &["primarychanges"],
        verbs: &[
            ("list", "find the oldest; and, at its start, what was told before"),
            ("get", "whether the one of that name is the same"),
            ("create", "one for each change of primary"),
            ("delete", "all but the last 50 of a topology"),
        ],
    },
    Rule {
        why: "the members' StatefulSets; deleted without their pods and made again when volumes grow",
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
        why: "the members",
        group: "",
        resources: &["pods"],
        verbs: &[
            ("get", "whether the pod that leads the operator still lives"),
            LIST,
            WATCH,
            ("patch", "label a member with its role"),
            ("delete", "restart a member, one at a time; fence a lost primary"),
        ],
    },
    Rule {
        why: "volumes grow when the spec's size grows",
        group: "",
        resources: &["persistentvolumeclaims"],
        verbs: &[LIST, WATCH, ("patch", "the requested size")],
    },
    Rule { why: "whether a lost member's node is gone", group: "", resources: &["nodes"], verbs: CACHED },
    Rule {
        why: "the agents' rights to their topology's Lease; what is granted there the operator must hold (see leases)",
        group: "rbac.authorization.k8s.io",
        resources: &["roles", "rolebindings"],
        verbs: APPLY,
    },
    Rule {
        why: "the record of each topology, and the operator's own leader election",
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &[
            ("get", "the record is read before it is decided upon; granted to agents"),
            LIST,
            ("watch", "a change is acted on at once; granted to agents"),
            ("create", "the first record of a topology"),
            ("update", "replaced only if nobody else did meanwhile; granted to agents"),
        ],
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
        verbs: &[("create", "one is published"), ("patch", "one that repeats is counted")],
    },
];

/// The documents, each but the first begun with `---`.
pub(super) fn manifests() -> String {
    let mut rules = String::new();
    for rule in RULES {
        let _ = write!(
            rules,
            "  # {}\n  - apiGroups: [{:?}]\n    resources: {:?}\n    verbs:\n",
            rule.why, rule.group, rule.resources
        );
        for (verb, why) in rule.verbs {
            let _ = writeln!(rules, "      - {verb} # {why}");
        }
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
      # It stops at once; and the next one waits for this long after a node was lost (docs/adr/0003).
      terminationGracePeriodSeconds: 5
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of the role in what users apply: every right has its reason beside it, and none is a wildcard.
    #[test]
    fn every_right_names_its_reason() {
        let manifests = manifests();
        let role = manifests.split("kind: ClusterRole\n").nth(1).and_then(|rest| rest.split("\n---").next()).unwrap();
        let mut rules = 0;
        let mut verbs = 0;
        let mut before = "";
        for line in role.lines() {
            assert!(!line.contains('*'), "a wildcard: {line}");
            if line.starts_with("  - apiGroups:") {
                assert!(before.starts_with("  # "), "no reason before: {line}");
                rules += 1;
            }
            if let Some(verb) = line.strip_prefix("      - ") {
                assert!(verb.split_once(" # ").is_some_and(|(_, why)| why.len() > 5), "no reason: {line}");
                verbs += 1;
            }
            before = line;
        }
        assert_eq!(rules, RULES.len());
        assert_eq!(verbs, RULES.iter().map(|rule| rule.verbs.len()).sum::<usize>());
    }

    /// RBAC lets nobody grant what they do not hold: the agents' role must be within the operator's.
    #[test]
    fn holds_what_it_grants_to_agents() {
        let leases = RULES.iter().find(|rule| rule.resources.contains(&"leases")).unwrap();
        for granted in ["get", "watch", "update"] {
            assert!(leases.verbs.iter().any(|(verb, _)| *verb == granted), "{granted}");
        }
    }

    #[test]
    fn no_verb_twice_and_no_resource_twice() {
        let mut resources = std::collections::BTreeSet::new();
        for rule in RULES {
            let verbs: std::collections::BTreeSet<_> = rule.verbs.iter().map(|(verb, _)| verb).collect();
            assert_eq!(verbs.len(), rule.verbs.len(), "{:?}", rule.resources);
            for resource in rule.resources {
                assert!(resources.insert((rule.group, resource)), "{resource}");
            }
        }
    }
}
