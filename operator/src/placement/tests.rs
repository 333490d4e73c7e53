mod explained;
mod rule;
mod sequences;
pub(super) mod world;
