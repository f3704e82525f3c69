//! What agents may do in the API: watch and swap their topology's Lease; nothing else.

use api::names;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use crate::{Input, metadata};

/// The account of an object's pods.
pub(crate) fn account_name(input: &Input<'_>) -> String {
    input.object.pod.service_account.clone().unwrap_or_else(|| input.object.name.clone())
}

pub(crate) fn service_account(input: &Input<'_>) -> Option<ServiceAccount> {
    input.object.pod.service_account.is_none().then(|| ServiceAccount {
        metadata: metadata::child(input, &input.object.name, &[]),
        ..ServiceAccount::default()
    })
}

pub(crate) fn role(input: &Input<'_>) -> Role {
    Role {
        metadata: metadata::child(input, &input.object.name, &[]),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
            resources: Some(vec!["leases".to_owned()]),
            resource_names: Some(vec![names::lease(&input.root.name)]),
            verbs: ["get", "watch", "update"].map(str::to_owned).into(),
            ..PolicyRule::default()
        }]),
    }
}

pub(crate) fn role_binding(input: &Input<'_>) -> RoleBinding {
    RoleBinding {
        metadata: metadata::child(input, &input.object.name, &[]),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Role".to_owned(),
            name: input.object.name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account_name(input),
            namespace: Some(input.object.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
