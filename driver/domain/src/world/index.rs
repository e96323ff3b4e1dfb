//! What is looked up often and stands on no shelf under its name: the pods that name a template, and the domain of a UID.
//!
//! A cluster of 100,000 nodes has a hundred times as many pods as domains, and each domain asks for its pods several times
//! in one decision.

use std::collections::{BTreeMap, BTreeSet};

use tessera_api::ComputeDomain;

use super::shelf::Shelf;
use crate::facts::{ObjectName, PodFacts};

/// Names of objects by what they are looked up by.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// The pods that name a template, by the template.
    pods: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    /// The domain of a UID.
    domains: BTreeMap<String, ObjectName>,
}

impl Index {
    /// The pods that name a template, in the order of their names.
    pub(super) fn pods<'a>(
        &'a self,
        template: &ObjectName,
    ) -> impl Iterator<Item = &'a ObjectName> + use<'a> {
        self.pods.get(template).into_iter().flatten()
    }

    /// The domain of a UID.
    pub(super) fn domain(&self, uid: &str) -> Option<&ObjectName> {
        self.domains.get(uid)
    }

    /// A pod is another than before: the templates that it named, and names now.
    pub(super) fn change_pod(
        &mut self,
        pod: &ObjectName,
        before: &BTreeSet<String>,
        now: &BTreeSet<String>,
    ) {
        for gone in before.difference(now) {
            let template = ObjectName::new(&pod.namespace, gone);
            if let Some(pods) = self.pods.get_mut(&template) {
                pods.remove(pod);
                if pods.is_empty() {
                    self.pods.remove(&template);
                }
            }
        }
        for new in now.difference(before) {
            let template = ObjectName::new(&pod.namespace, new);
            self.pods.entry(template).or_default().insert(pod.clone());
        }
    }

    /// A domain is another than before: the UID that its name had, and has now. A name is one domain's at a time.
    pub(super) fn change_domain(
        &mut self,
        domain: &ObjectName,
        before: Option<String>,
        now: Option<String>,
    ) {
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.domains.remove(&before);
        }
        if let Some(now) = now {
            self.domains.insert(now, domain.clone());
        }
    }

    /// All pods anew: a list is complete.
    pub(super) fn list_pods(&mut self, pods: &Shelf<PodFacts>) {
        self.pods.clear();
        for (name, pod) in pods.iter() {
            self.change_pod(name, &BTreeSet::new(), &pod.templates);
        }
    }

    /// All domains anew.
    pub(super) fn list_domains(&mut self, domains: &Shelf<ComputeDomain>) {
        self.domains.clear();
        for (name, domain) in domains.iter() {
            self.change_domain(name, None, domain.metadata.uid.clone());
        }
    }
}
