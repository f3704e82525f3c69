//! What a pass sees, gathered from the caches and the agents' streams.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::resolved::Resolved;
use api::{MariaDB, names};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use topology::Intent;
use topology::member::MemberName;
use topology::observation::{Agent, Observation, Seen};

use super::facts::Around;
use super::intent::{Asked, Object};
use super::links::Address;
use super::runner::{LONGEST, Runner};
use super::{authority, facts, families};

impl Runner {
    /// The topology's objects, the root first, the others as they were created.
    pub(super) fn objects(&self) -> Option<Vec<Arc<MariaDB>>> {
        let all = super::by_namespace(&self.inputs.objects).remove(&self.namespace)?;
        let members = families(&all).roots.remove(&self.root)?;
        let mut objects: Vec<_> = all.into_iter().filter(|object| members.contains(&object.name_any())).collect();
        objects.sort_by_key(|object| {
            (object.name_any() != self.root, object.metadata.creation_timestamp.clone(), object.name_any())
        });
        (objects.first()?.uid().unwrap_or_default() == self.uid).then_some(objects)
    }

    /// Resolves; an object with mistakes counts as it was before them.
    pub(super) fn resolve(&mut self, objects: &[Arc<MariaDB>]) -> Vec<Object> {
        for object in objects {
            let (name, generation) = (object.name_any(), object.metadata.generation);
            let known = self.resolved.get(&name);
            if known.is_some_and(|(known, _)| generation.is_some() && *known == generation) {
                continue;
            }
            if let Ok(resolved) = api::resolve(object) {
                if known.is_some() {
                    self.forget_failures(&name);
                }
                self.resolved.insert(name, (generation, resolved));
            }
        }
        let present: Vec<Resolved> = objects
            .iter()
            .filter_map(|object| self.resolved.get(&object.name_any()).map(|(_, resolved)| resolved.clone()))
            .collect();
        self.resolved.retain(|name, _| present.iter().any(|resolved| resolved.name == *name));
        // Without the root there is no intent at all.
        if present.first().is_none_or(|first| first.name != self.root) {
            return Vec::new();
        }
        let mut objects = super::intent::number(present);
        for object in &mut objects {
            object.leaving = self.leaving(&object.resolved);
        }
        objects
    }

    /// Ordinals beyond what is wanted whose pods are there: they are members until they are gone.
    fn leaving(&self, object: &Resolved) -> Vec<u32> {
        let mut leaving: Vec<u32> = self
            .inputs
            .pods
            .state()
            .iter()
            .filter(|pod| pod.namespace().as_deref() == Some(&self.namespace))
            .filter(|pod| pod.labels().get(names::INSTANCE_LABEL) == Some(&object.name))
            .filter_map(|pod| names::ordinal(&object.name, &pod.name_any()))
            .filter(|ordinal| *ordinal >= object.replicas)
            .collect();
        leaving.sort_unstable();
        leaving
    }

    /// What failed before an object was changed may work now: it is tried at once.
    fn forget_failures(&mut self, object: &str) {
        for (member, memory) in &mut self.memories {
            if names::ordinal(object, &member.0).is_some() {
                memory.tries.clear();
            }
        }
    }

    /// What is asked for beside the spec.
    pub(super) fn asked(&self, objects: &[Object]) -> Asked {
        let mut vacate = BTreeSet::new();
        for object in objects {
            let name = &object.resolved.name;
            let asked = self.inputs.releases.asked(&(self.namespace.clone(), name.clone()));
            for ordinal in object.ordinals() {
                let pod_name = names::pod(name, ordinal);
                let Some(pod) = self.pod(&pod_name) else { continue };
                let going = pod.metadata.deletion_timestamp.is_some() || ordinal >= object.resolved.replicas;
                if going || asked.contains(&(pod_name.clone(), pod.uid().unwrap_or_default())) {
                    vacate.insert(MemberName(pod_name));
                }
            }
        }
        let request = self.request.as_ref().and_then(|request| request.as_ref().ok()).cloned();
        Asked { request, vacate }
    }

    /// Keeps one link to every agent that has an address.
    pub(super) fn connect(&mut self, objects: &[Object]) -> Duration {
        let mut addresses = BTreeMap::new();
        for object in objects {
            for ordinal in object.ordinals() {
                let name = names::pod(&object.resolved.name, ordinal);
                let Some(pod) = self.pod(&name) else { continue };
                let Some(ip) = facts::address(&pod).and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
                let host = names::member_host(&name, &self.namespace);
                let pod_uid = pod.uid().unwrap_or_default();
                addresses.insert(MemberName(name), Address { ip, host, pod_uid });
            }
        }
        if addresses.is_empty() {
            self.links.clear();
            return LONGEST;
        }
        let doubt = addresses.keys().any(|member| matches!(self.links.heard(member), Agent::Silent { .. }));
        self.authority.refresh(doubt);
        match self.authority.config() {
            Some(config) => {
                self.links.follow(config, addresses);
                LONGEST
            }
            None => authority::MISSING,
        }
    }

    pub(super) fn pod(&self, name: &str) -> Option<Arc<Pod>> {
        self.inputs.pods.get(&ObjectRef::new(name).within(&self.namespace))
    }

    fn node(&self, pod: &Pod) -> Option<Arc<Node>> {
        let name = pod.spec.as_ref()?.node_name.as_deref()?;
        self.inputs.nodes.get(&ObjectRef::new(name))
    }

    pub(super) fn observe(&mut self, intent: &Intent, objects: &[Object]) -> Observation {
        let now = self.clock.now();
        let ephemeral = |object: &str| {
            objects.iter().any(|known| known.resolved.name == object && known.resolved.storage.ephemeral)
        };
        self.memories.retain(|member, _| intent.member(member).is_some());
        self.lives.retain(|member, _| intent.member(member).is_some());
        let mut members = BTreeMap::new();
        for member in &intent.members {
            let name = &member.name;
            let pod = self.pod(&name.0);
            let claim: Option<Arc<PersistentVolumeClaim>> =
                self.inputs.claims.get(&ObjectRef::new(&names::claim(&name.0)).within(&self.namespace));
            let agent = self.links.heard(name);
            let agent_answers = matches!(agent, Agent::Answers { .. });
            if agent_answers && let Some(life) = pod.as_deref().and_then(facts::life) {
                self.lives.insert(name.clone(), life);
            }
            let memory = self.memories.entry(name.clone()).or_default();
            if let Agent::Answers { state, answered, .. } = &agent {
                memory.observe(state, *answered, now);
                self.server_ids.insert(name.clone(), state.server_id);
            }
            let memory = memory.clone();
            let node = pod.as_deref().and_then(|pod| self.node(pod));
            let around = Around { node: node.as_deref(), agent_answers, heard_in: self.lives.get(name) };
            let seen = Seen {
                pod: facts::pod(pod.as_deref(), around),
                claim: facts::claim(claim.as_deref(), ephemeral(&member.object)),
                agent,
                memory,
            };
            members.insert(name.clone(), seen);
        }
        Observation {
            members,
            idle_claims: self.idle_claims(intent, objects),
            draw: rand::random(),
            course: self.course.clone(),
            renewed: self.renewed,
        }
    }

    /// Bound claims of members that do not run and should not.
    fn idle_claims(&self, intent: &Intent, objects: &[Object]) -> Vec<String> {
        let prefix = names::claim("");
        let mut idle: Vec<String> = self
            .inputs
            .claims
            .state()
            .into_iter()
            .filter(|claim| claim.namespace().as_deref() == Some(&self.namespace))
            .filter(|claim| facts::claim(Some(claim), false) == topology::observation::Claim::Bound)
            .map(|claim| claim.name_any())
            .filter(|claim| {
                let Some(pod) = claim.strip_prefix(&prefix) else { return false };
                objects.iter().any(|object| names::ordinal(&object.resolved.name, pod).is_some())
                    && intent.member(&MemberName(pod.to_owned())).is_none()
            })
            .collect();
        idle.sort();
        idle
    }
}
