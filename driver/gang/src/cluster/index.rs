//! The views of a cluster: made when a shape is first asked for, and kept true from then on.

use std::sync::{MutexGuard, PoisonError};

use super::Cluster;
use crate::demand::Shape;
use crate::eligibility::{Compiled, Strings};
use crate::node::CapacityType;
use crate::view::{Filter, View, as_u32};

/// Most shapes whose index is kept. The one that was not asked for longest makes room for another,
/// which costs a look at every node.
pub const MOST_VIEWS: usize = 64;

#[derive(Debug)]
pub(super) struct Index {
    pub(super) strings: Strings,
    pub(super) views: Vec<Kept>,
    /// Counts uses, to know which view was not used longest.
    clock: u64,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) filter: Filter,
    pub(super) view: View,
    used_at: u64,
}

impl Cluster {
    /// Looks at the view of a shape.
    pub(crate) fn with_view<R>(
        &self,
        shape: &Shape,
        capacity: &[CapacityType],
        look: impl FnOnce(&View) -> R,
    ) -> R {
        self.with_kept(shape, capacity, |kept, _| look(&kept.view))
    }

    /// Looks at what decides which nodes are eligible for a shape.
    pub(crate) fn with_filter<R>(
        &self,
        shape: &Shape,
        capacity: &[CapacityType],
        look: impl FnOnce(&Filter, &Strings) -> R,
    ) -> R {
        self.with_kept(shape, capacity, |kept, strings| look(&kept.filter, strings))
    }

    /// Looks up a shape, and makes what is kept for it if there is none.
    fn with_kept<R>(
        &self,
        shape: &Shape,
        capacity: &[CapacityType],
        look: impl FnOnce(&Kept, &Strings) -> R,
    ) -> R {
        let mut index = self.locked();
        let index = &mut *index;
        index.clock += 1;
        let is_it = |kept: &Kept| kept.filter.shape == *shape && kept.filter.capacity == capacity;
        let at = if let Some(at) = index.views.iter().position(is_it) {
            at
        } else {
            index.make_room();
            let kept = self.kept(shape, capacity, &mut index.strings);
            index.views.push(kept);
            index.views.len() - 1
        };
        let kept = &mut index.views[at];
        kept.used_at = index.clock;
        look(kept, &index.strings)
    }

    fn kept(&self, shape: &Shape, capacity: &[CapacityType], strings: &mut Strings) -> Kept {
        let filter = Filter {
            shape: shape.clone(),
            capacity: capacity.to_vec(),
            compiled: Compiled::new(shape.eligibility(), strings),
        };
        let mut view = View::empty(shape.gpus_per_node());
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(node) = node {
                let against = filter.objection(node, strings);
                view.add(as_u32(at), node, self.clique(node.clique), against);
            }
        }
        Kept {
            filter,
            view,
            used_at: 0,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Index> {
        // Views are put in whole, so what a panic left is whole too.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index(&mut self) -> &mut Index {
        self.index.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            strings: Strings::new(),
            views: Vec::new(),
            clock: 0,
        }
    }

    /// Drops the view that was not used longest if there are as many as may be.
    fn make_room(&mut self) {
        if self.views.len() < MOST_VIEWS {
            return;
        }
        let oldest = self
            .views
            .iter()
            .enumerate()
            .min_by_key(|(_, kept)| kept.used_at);
        if let Some((at, _)) = oldest {
            let kept = self.views.swap_remove(at);
            kept.filter.compiled.release(&mut self.strings);
        }
    }
}
