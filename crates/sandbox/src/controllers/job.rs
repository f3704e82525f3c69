//! Jobs: pods until so many have succeeded, or too many have failed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, Client, ResourceExt as _};

use super::caches::Caches;
use super::pods::{self, controlled_by, is_controlled_by, is_going, is_ready, phase};
use super::{Sweep, status_patch, tolerate};
use crate::events::{Recorder, reference};

const COMPONENT: &str = "job-controller";

pub(super) struct Jobs {
    client: Client,
    recorder: Recorder,
    expected: BTreeMap<String, BTreeSet<String>>,
}

fn is_finished(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

impl Jobs {
    pub(super) fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder, expected: BTreeMap::new() }
    }

    async fn one(&mut self, caches: &Caches, job: &Job) -> Result<(), kube::Error> {
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let Some(spec) = &job.spec else { return Ok(()) };
        let namespace = job.namespace().unwrap_or_default();
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        if is_finished(job) {
            return expire(job, &jobs).await;
        }
        let uid = job.uid().unwrap_or_default();
        let own: Vec<_> = caches.pods.state().into_iter().filter(|pod| is_controlled_by(&pod.metadata, &uid)).collect();
        let expected = self.expected.entry(uid).or_default();
        expected.retain(|name| {
            caches.pods.find(|p| p.name_any() == *name && p.namespace().as_deref() == Some(&namespace)).is_none()
        });
        let count =
            |test: &dyn Fn(&Pod) -> bool| i32::try_from(own.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX);
        // Pods that are gone still count.
        let before = |field: fn(&JobStatus) -> Option<i32>| job.status.as_ref().and_then(field).unwrap_or(0);
        let succeeded = count(&|pod| phase(pod) == "Succeeded").max(before(|s| s.succeeded));
        let failed = count(&|pod| phase(pod) == "Failed").max(before(|s| s.failed));
        let active = count(&|pod| matches!(phase(pod), "Pending" | "Running") && !is_going(pod));
        let completions = spec.completions.unwrap_or(1);
        let parallelism = spec.parallelism.unwrap_or(1);
        let backoff = spec.backoff_limit.unwrap_or(6);
        let restarts: i32 = own
            .iter()
            .flat_map(|pod| pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()))
            .map(|c| c.restart_count)
            .sum();

        let mut outcome = None;
        if succeeded >= completions {
            outcome = Some(("Complete", "CompletionsReached", "Reached expected number of succeeded pods".to_owned()));
        } else if failed > backoff || restarts > backoff {
            outcome =
                Some(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
        } else if let (Some(limit), Some(start)) =
            (spec.active_deadline_seconds, job.status.as_ref().and_then(|s| s.start_time.clone()))
            && Timestamp::now().as_second() - start.0.as_second() >= limit
        {
            outcome = Some(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        if let Some((type_, reason, message)) = &outcome {
            for pod in own.iter().filter(|pod| matches!(phase(pod), "Pending" | "Running") && !is_going(pod)) {
                tolerate(api.delete(&pod.name_any(), &DeleteParams::default()).await)?;
            }
            let (warning, event) = if *type_ == "Complete" { (false, "Completed") } else { (true, *reason) };
            let text = if warning { message.clone() } else { "Job completed".to_owned() };
            self.recorder.record(reference(job), COMPONENT, "", warning, if warning { reason } else { event }, text);
        } else if spec.suspend != Some(true) {
            let wanted = parallelism.min(completions - succeeded);
            let have = active + i32::try_from(expected.len()).unwrap_or(0);
            for _ in have..wanted {
                let name = format!("{}-{}", job.name_any(), pods::suffix());
                let meta = ObjectMeta {
                    name: Some(name.clone()),
                    generate_name: Some(format!("{}-", job.name_any())),
                    namespace: Some(namespace.clone()),
                    owner_references: Some(vec![controlled_by(job)]),
                    ..ObjectMeta::default()
                };
                api.create(&PostParams::default(), &pods::from_template(&spec.template, meta)).await?;
                expected.insert(name.clone());
                self.recorder.record(
                    reference(job),
                    COMPONENT,
                    "",
                    false,
                    "SuccessfulCreate",
                    format!("Created pod: {name}"),
                );
            }
        }
        self.status(job, &jobs, (active, succeeded, failed, count(&is_ready)), outcome).await
    }

    async fn status(
        &self,
        job: &Job,
        jobs: &Api<Job>,
        (active, succeeded, failed, ready): (i32, i32, i32, i32),
        outcome: Option<(&'static str, &'static str, String)>,
    ) -> Result<(), kube::Error> {
        let before = job.status.clone().unwrap_or_default();
        let now = Time(Timestamp::now());
        let mut after = JobStatus {
            active: (active > 0 && outcome.is_none()).then_some(active),
            succeeded: (succeeded > 0).then_some(succeeded),
            failed: (failed > 0).then_some(failed),
            ready: Some(ready),
            terminating: Some(0),
            start_time: before.start_time.clone().or_else(|| Some(now.clone())),
            ..before.clone()
        };
        if let Some((type_, reason, message)) = outcome {
            if type_ == "Complete" {
                after.completion_time = Some(now.clone());
            }
            after.conditions.get_or_insert_default().push(JobCondition {
                type_: type_.to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(now.clone()),
                last_probe_time: Some(now),
            });
        }
        if after == before {
            return Ok(());
        }
        let patch = status_patch(&job.metadata, &before, &after);
        tolerate(jobs.patch_status(&job.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await).map(drop)
    }
}

/// A finished job goes when its time to live is over.
async fn expire(job: &Job, jobs: &Api<Job>) -> Result<(), kube::Error> {
    let Some(ttl) = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished) else { return Ok(()) };
    let ended = job
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .filter_map(|c| c.last_transition_time.as_ref())
        .map(|t| t.0.as_second())
        .max();
    if ended.is_some_and(|ended| Timestamp::now().as_second() - ended >= i64::from(ttl)) {
        let params =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        tolerate(jobs.delete(&job.name_any(), &params).await)?;
    }
    Ok(())
}

impl Sweep for Jobs {
    const NAME: &'static str = COMPONENT;

    async fn sweep(&mut self, caches: &Caches) -> Result<(), kube::Error> {
        let mut result = Ok(());
        let jobs = caches.jobs.state();
        self.expected.retain(|uid, _| jobs.iter().any(|job| job.uid().as_ref() == Some(uid)));
        for job in jobs {
            if let Err(error) = self.one(caches, &job).await {
                result = Err(error);
            }
        }
        result
    }
}
