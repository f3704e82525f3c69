//! The record in its Lease: read, and swapped by compare-and-swap on the resource version.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use topology::Record;
use topology::record::{ParseRecordError, annotation};

use super::FIELD_MANAGER;

/// An API server that does not answer in this time is asked again in the next pass.
const LIMIT: Duration = Duration::from_secs(5);

/// The record with the Lease that it was read from.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) record: Record,
    lease: Option<Lease>,
}

impl Kept {
    /// The Lease's version; `None`: there is none.
    pub(super) fn version(&self) -> Option<&str> {
        self.lease.as_ref()?.metadata.resource_version.as_deref()
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error("read the lease {name}: {source}")]
    Read { name: String, source: Box<kube::Error> },
    #[error("write the lease {name}: {source}")]
    Write { name: String, source: Box<kube::Error> },
    #[error("the API server did not answer in time about the lease {name}")]
    Silent { name: String },
    #[error("the lease {name} was changed by somebody else")]
    Lost { name: String },
    #[error("the lease {name} is not understood: {source}")]
    Parse { name: String, source: ParseRecordError },
}

impl LeaseError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Silent { .. } => "LeaseNotRead",
            Self::Write { .. } => "LeaseNotWritten",
            Self::Lost { .. } => "LeaseChanged",
            Self::Parse { .. } => "LeaseNotUnderstood",
        }
    }
}

async fn in_time<T>(name: &str, call: impl Future<Output = Result<T, LeaseError>>) -> Result<T, LeaseError> {
    tokio::time::timeout(LIMIT, call).await.unwrap_or_else(|_| Err(LeaseError::Silent { name: name.to_owned() }))
}

fn understand(name: &str, lease: Lease) -> Result<Kept, LeaseError> {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    let annotations = lease.metadata.annotations.as_ref();
    let record = Record::parse(holder, |key| annotations.and_then(|all| all.get(key)).map(String::as_str))
        .map_err(|source| LeaseError::Parse { name: name.to_owned(), source })?;
    Ok(Kept { record, lease: Some(lease) })
}

/// Reads the record; [`Record::default`] where there is no Lease.
pub(super) async fn read(api: &Api<Lease>, name: &str) -> Result<Kept, LeaseError> {
    let lease = in_time(name, async {
        api.get_opt(name).await.map_err(|source| LeaseError::Read { name: name.to_owned(), source: Box::new(source) })
    })
    .await?;
    lease.map_or_else(|| Ok(Kept::default()), |lease| understand(name, lease))
}

/// Swaps `record` in for what was read.
pub(super) async fn swap(
    api: &Api<Lease>,
    name: &str,
    owner: &OwnerReference,
    kept: &Kept,
    record: &Record,
) -> Result<Kept, LeaseError> {
    let next = render(name, owner, kept.lease.as_ref(), record, Timestamp::now());
    let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let written = in_time(name, async {
        let result = match &kept.lease {
            None => api.create(&post, &next).await,
            Some(_) => api.replace(name, &post, &next).await,
        };
        result.map_err(|source| match &source {
            // Changed, made or removed meanwhile.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => LeaseError::Lost { name: name.to_owned() },
            _ => LeaseError::Write { name: name.to_owned(), source: Box::new(source) },
        })
    })
    .await?;
    understand(name, written)
}

fn render(name: &str, owner: &OwnerReference, current: Option<&Lease>, record: &Record, now: Timestamp) -> Lease {
    let mut lease = current.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let annotations = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
    for key in annotation::ALL {
        annotations.remove(key);
    }
    annotations.extend(record.annotations().into_iter().map(|(key, value)| (key.to_owned(), value)));
    let labels = lease.metadata.labels.get_or_insert_with(BTreeMap::new);
    labels.insert("k8s.mariadb.com/topology".to_owned(), owner.name.clone());
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "mariadb-operator".to_owned());
    lease.metadata.owner_references = Some(vec![owner.clone()]);
    lease.metadata.managed_fields = None;
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    let holder = record.holder_identity().map(str::to_owned);
    if spec.holder_identity != holder {
        spec.acquire_time = holder.is_some().then_some(MicroTime(now));
        spec.holder_identity = holder;
        spec.lease_transitions = i32::try_from(record.epoch).ok();
    }
    spec.renew_time = Some(MicroTime(now));
    lease
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::member::{DataId, MemberName};
    use topology::record::Holder;

    #[test]
    fn a_record_survives_its_lease() {
        let owner = OwnerReference { name: "db".into(), kind: "MariaDB".into(), ..OwnerReference::default() };
        let holder = Holder { data_id: DataId("d1".into()), member: MemberName("db-0".into()), pod_uid: "u".into() };
        let record = Record::default().next_epoch(holder, 1, "0-1-5".parse().expect("a position"));
        let mut lease = render("db-topology", &owner, None, &Record::default().next(), Timestamp::UNIX_EPOCH);
        lease.metadata.annotations.as_mut().expect("annotations").insert("users/own".into(), "kept".into());
        lease = render("db-topology", &owner, Some(&lease), &record, Timestamp::UNIX_EPOCH);
        assert_eq!(lease.metadata.annotations.as_ref().expect("annotations")["users/own"], "kept");
        assert_eq!(understand("db-topology", lease).expect("understood").record, record);
    }
}
