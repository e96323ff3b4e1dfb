//! Properties of plans, by the names that the project's design gives them, against an oracle that tries everything.

mod heads;
mod oracle;
mod plans;
mod queues;
mod small;
mod spec;
